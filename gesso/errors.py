"""The exceptions that users and jobs see: UserError and Rejected. Imports nothing of gesso."""


class UserError(Exception):
    """A mistake that the user can correct: the message is one line with the offending value and how to correct it.

    `gesso` prints it as `gesso: <message>` and exits with code 2.
    """


class Rejected(Exception):
    """A record that is rejected: `reason` is counted (ARCHITECTURE.md lists them), `message` is for people."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message or reason
