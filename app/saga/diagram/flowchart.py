"""The picture as a Mermaid flowchart. Names, calls and events need no quoting between quotes (`definition`)."""

from typing import Final

from app.saga.definition import Definition
from app.saga.diagram.signs import SAGAS, Standing, Tone, saga_words, standing
from app.saga.graph import reduced
from app.saga.state import ACTION, COMPENSATION, Operation, State

# Fill, border and text are all set: the page around may be light or dark.
_STYLES: Final = {
    Tone.IDLE: "fill:#f6f8fa,stroke:#8c959f,color:#424a53",
    Tone.ACTIVE: "fill:#ddf0ff,stroke:#0969da,color:#0a3069",
    Tone.WAITING: "fill:#fff4cc,stroke:#9a6700,color:#4d2d00",
    Tone.GOOD: "fill:#dcf7e1,stroke:#1a7f37,color:#0b3d1a",
    Tone.UNDONE: "fill:#f1e7ff,stroke:#8250df,color:#3e1f79",
    Tone.BAD: "fill:#ffe3e1,stroke:#cf222e,color:#71121d",
}


def mermaid(definition: Definition, state: State | None = None) -> str:
    """Steps with their dependencies; dotted, what undoes each of them. With `state`, how each of them stands.

    Of a choreography the arrows are the events that trigger, and a step names those that it publishes.
    """
    lines: list[str] = []
    tones: dict[str, Tone] = {}
    classes: list[str] = []

    def stands(node: str, word: str, tone: Tone) -> None:
        tones[word] = tone
        classes.append(f"class {node} {word}")

    def box(position: int, operation: Operation) -> str:
        step = definition.steps[position]
        if operation == ACTION:
            node = f"s{position}"
            opening, closing = ("{{", "}}") if step.pivot else ("[", "]")
            does = step.action if step.events is None else f"{step.events.succeeded} or {step.events.failed}"
            label = [step.name, f"{step.service}: {does}"]
            marks = [mark for mark, so in (("pivot", step.pivot), ("when", step.when is not None)) if so]
            label += [", ".join(marks)] if marks else []
        else:
            node, opening, closing = f"u{position}", "(", ")"
            label = [f"{step.service}: {step.compensation}"]
        if state is not None:
            how = standing(definition, state, position, operation)
            label += _told(how)
            stands(node, how.state, how.sign.tone)
        return f'{node}{opening}"{"<br/>".join(label)}"{closing}'

    if state is not None:
        sign = SAGAS[state.state]
        lines.append(f'saga(["{definition.name}<br/>{sign.character} {saga_words(definition, state)}"])')
        stands("saga", state.state, sign.tone)
    lines += [box(position, ACTION) for position in range(len(definition.steps))]
    if definition.started_by is not None:
        lines.append(f'begin(["{definition.started_by}"])')
    for position, needed in enumerate(reduced(definition.dependencies, definition.upstream)):
        if definition.steps[position].events is None:
            lines += [f"s{other} --> s{position}" for other in needed]
        elif needed:
            lines.append(f's{needed[0]} -- "{definition.steps[position].action}" --> s{position}')
        else:
            lines.append(f"begin --> s{position}")
    for position, step in enumerate(definition.steps):
        if step.compensation is not None:
            lines.append(f"s{position} -. undone by .-> {box(position, COMPENSATION)}")
    lines += [f"classDef {word} {_STYLES[tone]}" for word, tone in tones.items()]
    return "".join(["flowchart LR\n", *(f"    {line}\n" for line in lines + classes)])


def _told(how: Standing) -> list[str]:
    return [f"{how.sign.character} {how.words}", *(["needs attention"] if how.needs_attention else [])]
