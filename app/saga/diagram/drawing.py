"""The picture as SVG, for a page of its own, for `<img>`, or to stand inline in a page.

Every operation is a `<g>` with `data-step`, `data-operation`, `data-state` and classes. Colours are custom properties
(`--saga-...`), light and dark; what a page says of them goes first. There is neither a script nor a reference to
anything outside. Lengths are CSS pixels.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from html import escape
from itertools import accumulate
from math import ceil
from typing import Final, TypeAlias

from app.saga.definition import Definition, Step
from app.saga.diagram.layout import Line, lay_out
from app.saga.diagram.signs import CALLS, SAGAS, Sign, saga_words, standing
from app.saga.graph import reduced
from app.saga.state import ACTION, COMPENSATION, OPERATIONS, CallState, Operation, State

MARGIN: Final = 20
PADDING: Final = 12
"""In a box."""
NARROWEST, WIDEST = 136, 236
"""Of boxes."""
GUTTER: Final = 48
"""Between columns."""
ACROSS: Final = 1400
"""What columns may take side by side before they are broken like lines of text: one screen, read downwards."""
WIDEST_EVENT: Final = 200
"""What an event's name may take on the line that it triggers along."""
LANE: Final = 24
"""Above and below the boxes of a lane."""
TRACK: Final = 7
"""Between lines that run beside each other from the end of one band to the beginning of the next."""
LEAST_WIDTH: Final = 480
"""Of the picture: its heading has to have room."""
HEADING, ROW = 36, 22
"""Heights of the heading and of a row below it."""
NAME, TEXT, WORD, EVENT = 14.6, 12.4, 12.2, 11.4
"""By which the room of letters is reckoned: somewhat larger than they are, since fonts differ."""
NOTHING: Final = 16
"""Height of what stands where nothing is to be undone."""
RING: Final = 3.5
INDENT: Final = 18
ROUND: Final = 6.0
STUB: Final = 7
"""Straight piece at the ends of a curve, so that it meets its head in the middle."""

STYLE: Final = """
:where(.saga-diagram){--saga-paper:#fff;--saga-lane:#f6f7f9;--saga-box:#fff;--saga-ink:#1f2328;--saga-muted:#59636e;
--saga-border:#c4cbd3;--saga-line:#8b949e;
--saga-idle:#59636e;--saga-idle-fill:#fff;--saga-active:#0757b5;--saga-active-fill:#eaf3ff;
--saga-waiting:#7a4d00;--saga-waiting-fill:#fff6db;--saga-good:#116b2d;--saga-good-fill:#eaf8ee;
--saga-undone:#6236b8;--saga-undone-fill:#f4eeff;--saga-bad:#b0142b;--saga-bad-fill:#ffeeee}
@media (prefers-color-scheme:dark){
:where(.saga-diagram){--saga-paper:#0f1318;--saga-lane:#161b22;--saga-box:#1c222b;--saga-ink:#e6eaef;
--saga-muted:#9aa4af;--saga-border:#3f4853;--saga-line:#6b7682;
--saga-idle:#9aa4af;--saga-idle-fill:#1c222b;--saga-active:#7db7ff;--saga-active-fill:#12263f;
--saga-waiting:#e8b94f;--saga-waiting-fill:#2e2410;--saga-good:#63d182;--saga-good-fill:#11291a;
--saga-undone:#c4a8ff;--saga-undone-fill:#261d3d;--saga-bad:#ff9089;--saga-bad-fill:#37181b}}
.saga-diagram{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.saga-diagram text{fill:var(--saga-ink)}
.saga-diagram .paper{fill:var(--saga-paper)}
.saga-diagram .lane{fill:var(--saga-lane)}
.saga-diagram .line{fill:none;stroke:var(--saga-line);stroke-width:1.4}
.saga-diagram .head{fill:var(--saga-line)}
.saga-diagram .tie{stroke:var(--saga-line);stroke-width:1.4;stroke-linecap:round;stroke-dasharray:.1 4.5}
.saga-diagram .box{fill:var(--fill,var(--saga-box));stroke:var(--tone,var(--saga-border));stroke-width:1.2}
.saga-diagram .ring{fill:none;stroke:var(--tone,var(--saga-border));stroke-width:1.2}
.saga-diagram .idle .box,.saga-diagram .idle .ring{stroke:var(--saga-border)}
.saga-diagram .compensation.idle .box{stroke-dasharray:4 3}
.saga-diagram .sign{fill:none;stroke:var(--tone);stroke-width:1.6;stroke-linecap:round;stroke-linejoin:round}
.saga-diagram .name{font-size:13px;font-weight:600}
.saga-diagram .heading{font-size:17px;font-weight:600}
.saga-diagram .call{fill:var(--saga-muted)}
.saga-diagram .note{--tone:var(--saga-muted)}
.saga-diagram .word,.saga-diagram .state text{fill:var(--tone);font-size:11px;font-weight:600}
.saga-diagram .none{fill:var(--saga-muted);font-size:11px;font-style:italic;text-anchor:middle;
stroke:var(--saga-lane);stroke-width:5;paint-order:stroke}
.saga-diagram .event{fill:var(--saga-muted);font-size:11px;text-anchor:end;
stroke:var(--saga-paper);stroke-width:4;paint-order:stroke}
.saga-diagram .caption{fill:var(--saga-muted);font-size:10px;letter-spacing:.06em}
.saga-diagram .mark rect{fill:var(--saga-box);stroke:var(--tone,var(--saga-border))}
.saga-diagram .mark text{fill:var(--tone,var(--saga-muted));font-size:10px;text-anchor:middle}
.saga-diagram .mark.attention rect{fill:var(--saga-bad);stroke:var(--saga-bad)}
.saga-diagram .mark.attention text{fill:var(--saga-box);font-weight:600}
""" + "".join(
    f".saga-diagram .{tone}{{--tone:var(--saga-{tone});--fill:var(--saga-{tone}-fill)}}\n"
    for tone in ("idle", "active", "waiting", "good", "undone", "bad")
)


def svg(definition: Definition, state: State | None = None, *, inline: bool = False) -> str:
    """An SVG document. With `state`, how every operation of that saga stands.

    `inline`: for a page that has `STYLE`, and says by itself what it is that is drawn.
    """
    return "\n".join(_Drawing(definition, state, inline=inline).document()) + "\n"


# --- text -------------------------------------------------------------------------------------------------------

_Point: TypeAlias = tuple[float, float]
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_THIN, _WIDE = frozenset("iljtfrI.,:;'!|/()[] -"), frozenset("mwMW@%—")


def _text(text: str) -> str:
    """As XML may hold it. A participant's error may contain anything."""
    return escape(_NOT_XML.sub("\ufffd", text))


def _width(text: str, size: float) -> float:
    """About how wide the text is, rather more than less: the font is the reader's."""
    return sum(map(_em, text)) * size


def _em(letter: str) -> float:
    if letter in _THIN:
        return 0.36
    if letter in _WIDE:
        return 0.93
    return 0.6 if letter.isascii() and not letter.isupper() else 0.72


def _fitted(text: str, size: float, room: float) -> str:
    text = " ".join(text.split())
    ends = [end * size for end in accumulate(map(_em, text))]
    if not ends or ends[-1] <= room:
        return text
    return text[: bisect_right(ends, room - _width("…", size))] + "…"


def _at(x: float, y: float) -> str:
    return f'x="{_number(x)}" y="{_number(y)}"'


def _size(width: float, height: float) -> str:
    return f'width="{_number(width)}" height="{_number(height)}"'


def _points(*points: _Point) -> str:
    return " ".join(f"{_number(x)} {_number(y)}" for x, y in points)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


# --- the drawing ------------------------------------------------------------------------------------------------


class _Drawing:
    def __init__(self, definition: Definition, state: State | None, *, inline: bool) -> None:
        self.definition, self.state, self.inline = definition, state, inline
        self.box_height: Final = 48 if state is None else 68
        self.box_width: Final = self._box_width()
        self.event_width: Final = self._event_width()
        self.gutter: Final = GUTTER + self.event_width
        self.pitch: Final = self.box_width + self.gutter
        self.layout: Final = lay_out(
            reduced(definition.dependencies, definition.upstream),
            [
                [self.box_height if self._has(p, each) else NOTHING for p in range(len(definition.steps))]
                for each in OPERATIONS
            ],
            columns_at_most=max((ACROSS + self.gutter) // self.pitch, 1),
        )
        self.lanes: Final = dict(zip(OPERATIONS, self.layout.lanes, strict=True))
        self.operations: Final[tuple[Operation, ...]] = OPERATIONS if self._undoes() else (ACTION,)
        self.lines: Final = {operation: self._lines(operation) for operation in self.operations}
        undoing = self.lines.get(COMPENSATION, [])
        self.passed: Final = {line.end for line in undoing} & {line.begin for line in undoing}
        """Where nothing is to be undone, the line goes on."""
        self.tracks: Final = self._tracks()
        beside = max(map(len, self.tracks))
        self.side: Final = MARGIN + (TRACK * (beside + 1) if beside else 0)
        self.lane_width: Final = self.layout.columns * self.pitch - GUTTER + 2 * PADDING
        """Before the first column there is room for the event that begins the saga."""
        self.width: Final = max(2 * self.side + self.lane_width, LEAST_WIDTH)
        self.notes: Final = list(self._notes())
        self.tops: Final[dict[tuple[Operation, int], float]] = {}
        self.height: Final = self._stack()

    def _undoes(self) -> bool:
        return any(step.compensation is not None for step in self.definition.steps)

    def _box_width(self) -> int:
        widest = float(NARROWEST - 2 * PADDING)
        for position, step in enumerate(self.definition.steps):
            for operation in (each for each in OPERATIONS if self._has(position, each)):
                name, call = _labels(step, operation)
                widest = max(widest, _width(name, NAME), _width(call, TEXT))
                if self.state is not None:
                    words = standing(self.definition, self.state, position, operation).words
                    widest = max(widest, _width(words, WORD) + INDENT)
        return min(ceil(widest) + 2 * PADDING, WIDEST)

    def _event_width(self) -> int:
        """What stands on the lines of a choreography; 0 otherwise."""
        widest = max((_width(step.action, EVENT) for step in self.definition.steps if step.events), default=0)
        return min(ceil(widest) + 2 * STUB, WIDEST_EVENT) if widest else 0

    def _lines(self, operation: Operation) -> list[Line]:
        if operation == ACTION:
            return list(self.layout.lines)
        # Order among compensations runs through steps that have none, as long as some step has one on either side.
        has = [step.compensation is not None for step in self.definition.steps]
        before = [has[p] or any(has[other] for other in above) for p, above in enumerate(self.definition.upstream)]
        after = [has[p] or any(has[other] for other in below) for p, below in enumerate(self.definition.downstream)]
        return [line for line in self.layout.lines if before[line.begin] and after[line.end]]

    def _tracks(self) -> list[dict[tuple[Operation, int], int]]:
        """For each band the track of each (operation, item) whose line goes on in a later one: so they do not cross."""
        places = self.layout.places
        found: list[list[tuple[Operation, int]]] = [[] for _ in self.layout.lanes[0].heights]
        for operation, lines in reversed(self.lines.items()):
            pairs = (pair for line in lines for pair in zip(line.items, line.items[1:], strict=False))
            leaving = {one for one, other in pairs if places[one].band != places[other].band}
            # Whoever leaves at the bottom stays innermost; the lower lane is upside down.
            for item in sorted(leaving, key=lambda item: places[item].order, reverse=operation == ACTION):
                found[places[item].band].append((operation, item))
        return [{each: track for track, each in enumerate(band)} for band in found]

    def _notes(self) -> Iterator[tuple[str, Sign, str]]:
        """Class, sign and text of what stands below the heading."""
        state = self.state
        if state is None:
            return
        sign = SAGAS[state.state]
        yield f"state {sign.tone}", sign, saga_words(self.definition, state)
        if state.attention is not None:
            yield "note bad", CALLS[CallState.EXHAUSTED], f"Attention: {state.attention.reason}"
        if (error := state.error or state.turn) is not None:
            turned = "Turned" if state.error else "Turns once the pivot's outcome is known"
            culprit = f" by {error.step}" if error.step else ""
            yield "note", CALLS[CallState.COMPENSATED], f"{turned}{culprit} ({error.code}): {error.message}"

    def _stack(self) -> float:
        """Puts the lanes below each other, and tells the height of it all."""
        top: float = MARGIN if self.inline else MARGIN + HEADING + ROW * len(self.notes)
        for band in range(len(self.tracks)):
            for operation in self.operations:
                self.tops[operation, band] = top
                top += self._lane_height(operation, band)
            top += TRACK * (len(self.tracks[band]) + 1) + 8
        return top - TRACK - 8 + MARGIN

    # where things are

    def _lane_height(self, operation: Operation, band: int) -> float:
        return self.lanes[operation].heights[band] + 2 * LANE

    def _left(self, item: int) -> float:
        return self.side + PADDING + self.event_width + self.layout.places[item].column * self.pitch

    def _middle(self, item: int, operation: Operation) -> float:
        """The lower lane is upside down, as a mirror image is: what stands next to it is undone next to it."""
        band, middle = self.layout.places[item].band, self.lanes[operation].middles[item]
        below_top = middle if operation == ACTION else self.lanes[operation].heights[band] - middle
        return self.tops[operation, band] + LANE + below_top

    def _has(self, position: int, operation: Operation) -> bool:
        return operation == ACTION or self.definition.steps[position].compensation is not None

    # what is drawn

    def document(self) -> Iterator[str]:
        width, height = _number(self.width), _number(self.height)
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="saga-diagram" role="img" width="{width}" height="{height}"'
            f' viewBox="0 0 {width} {height}">'
        )
        count = len(self.definition.steps)
        told = [f"{count} step{'' if count == 1 else 's'}, from left to right in the order in which they run."]
        if len(self.operations) > 1:
            told.append("Below, from right to left, what undoes them.")
        told += [text for _, _, text in self.notes]
        yield f"<title>{_text(self.definition.name)}</title>"
        yield f"<desc>{_text(' '.join(told))}</desc>"
        if not self.inline:
            yield f"<style>{STYLE}</style>"
        yield '<rect class="paper" width="100%" height="100%"/>'
        if not self.inline:
            yield from self._head()
        yield from self._grounds()
        for operation, lines in self.lines.items():
            yield from (self._line(line, operation) for line in lines)
            yield from self._heads(operation)
        yield from self._events()
        yield from self._ties()
        for position in range(count):
            for operation in self.operations:
                yield from self._box(position, operation)
        yield "</svg>"

    def _head(self) -> Iterator[str]:
        yield f'<text class="heading" x="{_number(self.side)}" y="{MARGIN + 16}">{_text(self.definition.name)}</text>'
        for row, (kind, sign, text) in enumerate(self.notes):
            yield f'<g class="{kind}" transform="translate({_number(self.side)} {MARGIN + HEADING - 6 + ROW * row})">'
            shown = _fitted(text, TEXT, self.width - 2 * self.side - INDENT)
            yield f'{_sign(sign, 0, -1)}<text x="{INDENT}" y="9">{_text(shown)}</text></g>'

    def _grounds(self) -> Iterator[str]:
        for (operation, band), top in self.tops.items():
            if operation == COMPENSATION:
                left, width, height = self.side, self.width - 2 * self.side, self._lane_height(operation, band)
                yield f'<rect class="lane" {_at(left, top)} {_size(width, height)} rx="8"/>'
                if band == 0:
                    at = _at(left + PADDING, top + height - 8)
                    yield f'<text class="caption" {at}>compensation, from right to left</text>'

    def _line(self, line: Line, operation: Operation) -> str:
        first, *others = line.items
        path = [f"M{_number(self._left(first) + self.box_width)} {_number(self._middle(first, operation))}"]
        for one, other in zip(line.items, others, strict=False):
            path.append(self._stretch(one, other, operation))
            if other != line.end:
                path.append(f"h{self.box_width}")
        begin, end = (self.definition.steps[each].name for each in (line.begin, line.end))
        if operation == COMPENSATION:
            begin, end = end, begin
        ends = f'data-operation="{operation}" data-from="{_text(begin)}" data-to="{_text(end)}"'
        return f'<path class="line" {ends} d="{"".join(path)}"/>'

    def _stretch(self, one: int, other: int, operation: Operation) -> str:
        """From the right of one item to the left of the other."""
        places = self.layout.places
        x, y = self._left(one) + self.box_width, self._middle(one, operation)
        to_x, to_y = self._left(other), self._middle(other, operation)
        band = places[one].band
        if band == places[other].band:
            if abs(y - to_y) < 0.05:
                return f"H{_number(to_x)}"
            flat = to_x - (self.event_width if operation == ACTION else 0)  # there an event has its name
            bend = (x + flat) / 2
            return f"H{_number(x + STUB)}C{_points((bend, y), (bend, to_y), (flat - STUB, to_y))}H{_number(to_x)}"
        tracks = self.tracks[band]
        track = tracks[operation, one]
        right = self.side + self.lane_width + TRACK * (track + 1)
        left = self.side - TRACK * (len(tracks) - track)
        last = self.operations[-1]
        between = self.tops[last, band] + self._lane_height(last, band) + TRACK * (track + 1)
        return _rounded([(x, y), (right, y), (right, between), (left, between), (left, to_y), (to_x, to_y)])

    def _heads(self, operation: Operation) -> Iterator[str]:
        """An arrow's head at every step to which a line leads: forward at its left, backward at its right."""
        for line_end in sorted({line.end if operation == ACTION else line.begin for line in self.lines[operation]}):
            if self._has(line_end, operation):
                x, y = self._left(line_end), _number(self._middle(line_end, operation))
                ring = RING if operation == ACTION and self.definition.steps[line_end].pivot else 0
                at, back = (x - ring, "-8") if operation == ACTION else (x + self.box_width, "8")
                yield f'<path class="head" d="M{_number(at)} {y}l{back} -4v8z"/>'

    def _events(self) -> Iterator[str]:
        """The name of what triggers a step, on the line to it; one that begins the saga has a line of its own."""
        for position, step in enumerate(self.definition.steps):
            if step.events is None:
                continue
            x, y = self._left(position), self._middle(position, ACTION)
            if not self.definition.dependencies[position]:
                yield f'<path class="line" d="M{_number(x - self.event_width)} {_number(y)}H{_number(x)}"/>'
                yield f'<path class="head" d="M{_number(x)} {_number(y)}l-8 -4v8z"/>'
            trigger = _text(_fitted(step.action, EVENT, self.event_width - STUB))
            ends = f'data-event="{_text(step.action)}" data-step="{_text(step.name)}"'
            yield f'<text class="event" {ends} {_at(x - 9, y - 5)}>{trigger}</text>'

    def _ties(self) -> Iterator[str]:
        """Dotted, from an action to what undoes it; behind the boxes that stand between, each at a place of its own."""
        places = self.layout.places
        columns: dict[tuple[int, int], list[int]] = {}
        for position in range(len(self.definition.steps)):
            if self._has(position, COMPENSATION):
                columns.setdefault((places[position].band, places[position].column), []).append(position)
        for column in columns.values():
            column.sort(key=lambda position: -places[position].order)
            apart = min(12.0, (self.box_width - 2 * INDENT) / len(column))
            for depth, position in enumerate(column):
                x = _number(self._left(position) + INDENT + depth * apart)
                begin = _number(self._middle(position, ACTION) + self.box_height / 2)
                end = _number(self._middle(position, COMPENSATION) - self.box_height / 2)
                yield f'<path class="tie" d="M{x} {begin}V{end}"/>'

    def _box(self, position: int, operation: Operation) -> Iterator[str]:
        step, state = self.definition.steps[position], self.state
        left, middle = self._left(position), self._middle(position, operation)
        if not self._has(position, operation):
            if position in self.passed:
                yield f'<path class="line" d="M{_number(left)} {_number(middle)}h{self.box_width}"/>'
            at = _at(left + self.box_width / 2, middle + 4)
            yield f'<text class="none" data-step="{_text(step.name)}" {at}>nothing to undo</text>'
            return
        name, call = _labels(step, operation)
        classes, about, data = [operation, *(["pivot"] if step.pivot and operation == ACTION else [])], [name, call], ""
        inside = [f'<text class="name" x="{PADDING}" y="20">{_text(_fitted(name, NAME, self._room))}</text>']
        inside.append(f'<text class="call" x="{PADDING}" y="37">{_text(_fitted(call, TEXT, self._room))}</text>')
        marks = []
        if operation == ACTION and step.pivot:
            marks.append("pivot")
            about.append("The point of no return.")
        if operation == ACTION and step.events is not None:
            about.append(f"Or {step.events.failed}")
        if operation == ACTION and step.when is not None:
            marks.append("when")
            about.append(f"Only when {step.when}")
        if state is not None:
            how = standing(self.definition, state, position, operation)
            known = state.call(position, operation)
            classes += [how.state.lower(), how.sign.tone]
            data = f' data-state="{how.state}"'
            about.append(f"{how.words}{', outcome unknown' if known.unknown else ''}")
            about += [known.error.message] if known.error is not None else []
            inside.append(
                f'{_sign(how.sign, PADDING, 46)}<text class="word" x="{PADDING + INDENT}" y="56">{how.words}</text>'
            )
            if how.needs_attention:
                marks.append("attention")
                classes.append("needs-attention")
        yield (
            f'<g class="{" ".join(classes)}" data-step="{_text(step.name)}" data-operation="{operation}"{data}'
            f' transform="translate({_number(left)} {_number(middle - self.box_height / 2)})">'
        )
        yield f"<title>{_text(chr(10).join(about))}</title>"
        if step.pivot and operation == ACTION:
            size = _size(self.box_width + 2 * RING, self.box_height + 2 * RING)
            yield f'<rect class="ring" {_at(-RING, -RING)} {size} rx="9.5"/>'
        yield f'<rect class="box" {_size(self.box_width, self.box_height)} rx="6"/>'
        yield from inside
        yield from self._marks(marks)
        yield "</g>"

    @property
    def _room(self) -> int:
        return self.box_width - 2 * PADDING

    def _marks(self, marks: list[str]) -> Iterator[str]:
        """Words upon the upper edge of a box, from its right corner to the left."""
        right = self.box_width - 8.0
        for mark in marks:
            width = ceil(_width(mark, TEXT)) + 10
            right -= width
            yield f'<g class="mark {mark}" transform="translate({_number(right)} -9)"><rect {_size(width, 16)} rx="8"/>'
            yield f'<text x="{_number(width / 2)}" y="11.5">{mark}</text></g>'
            right -= 5


def _labels(step: Step, operation: Operation) -> tuple[str, str]:
    if operation == ACTION:
        return step.name, f"{step.service}: {step.events.succeeded if step.events else step.action}"
    return f"undo {step.name}", f"{step.service}: {step.compensation}"


def _sign(sign: Sign, x: float, y: float) -> str:
    return f'<path class="sign" transform="translate({x} {y})" d="{sign.outline}"/>'


def _rounded(points: list[_Point]) -> str:
    """A path along right angles, from the first point, where it stands already, to the last; corners are round."""
    path = []
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        path.append(f"L{_points(_towards(corner, before))}Q{_points(corner, _towards(corner, after))}")
    return "".join(path) + f"L{_points(points[-1])}"


def _towards(begin: _Point, end: _Point) -> _Point:
    """The point at which a corner begins to be round."""
    (x, y), (to_x, to_y) = begin, end
    return x + _at_most_round((to_x - x) / 2), y + _at_most_round((to_y - y) / 2)


def _at_most_round(length: float) -> float:
    return max(-ROUND, min(ROUND, length))
