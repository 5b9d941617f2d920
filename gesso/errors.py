"""The exceptions that mean something to a user. Imports nothing of ours."""


class UserError(Exception):
    """A mistake that the user can mend: the message is one line that shows the value and the way out.

    `gesso` prints it as `gesso: <message>` and exits with code 2.
    """


class Rejected(Exception):
    """A record that goes no further: `reason` is counted (ARCHITECTURE.md lists them), `message` is for people."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message or reason
