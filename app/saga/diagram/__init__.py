"""A definition, or one saga of it, as a picture: the steps from left to right, below them what undoes each of them.

`mermaid` and `svg` say the same, as text and as an image; with a `State` every operation also says how it stands, in a
word, a sign and a colour. Pure. Of the dependencies only those are drawn that do not follow from others.
"""

from app.saga.diagram.drawing import svg
from app.saga.diagram.flowchart import mermaid

__all__ = ["mermaid", "svg"]
