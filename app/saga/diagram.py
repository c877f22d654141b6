"""A definition as a picture: Mermaid text."""

from app.saga.definition import Definition


def mermaid(definition: Definition) -> str:
    """Steps with their dependencies; dotted, what undoes each of them. Names need no quoting (`definition`)."""
    lines = ["flowchart LR"]
    for position, step in enumerate(definition.steps):
        opening, closing = ("{{", "}}") if step.pivot else ("[", "]")
        lines.append(f'    s{position}{opening}"{step.name}<br/>{step.service}: {step.action}"{closing}')
    for position, needed in enumerate(definition.dependencies):
        lines += [f"    s{other} --> s{position}" for other in needed]
    for position, step in enumerate(definition.steps):
        if step.compensation is not None:
            lines.append(f'    s{position} -. undone by .-> u{position}("{step.service}: {step.compensation}")')
    return "\n".join(lines) + "\n"
