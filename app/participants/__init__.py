"""How a call to a participant is really made."""
