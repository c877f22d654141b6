"""What the participants did: their own books, which know nothing of the saga's state."""

from dataclasses import dataclass, field


@dataclass
class Ledger:
    """Of all participants of one saga. Effects are told apart by their key; outputs are JSON."""

    effects: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Step -> key -> output, of what stands."""
    answered: dict[str, bytes] = field(default_factory=dict)
    """Key -> output, of whatever was done once."""
    undone: set[str] = field(default_factory=set)

    def act(self, step: str, key: str, output: bytes) -> None:
        """A known key changes nothing, and neither does an action that comes after its compensation."""
        if key in self.answered or step in self.undone:
            return
        self.answered[key] = output
        self.effects.setdefault(step, {})[key] = output

    def undo(self, step: str, key: str, output: bytes) -> None:
        self.answered.setdefault(key, output)
        self.undone.add(step)
        self.effects.pop(step, None)

    def settle(self, step: str) -> None:
        """A person has undone it."""
        self.undone.add(step)
        self.effects.pop(step, None)
