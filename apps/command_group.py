"""Commands that stand under one name: `surnia`, `surnia detect`, `surnia control`. Imports nothing heavy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sslcore.did_you_mean import did_you_mean
from sslcore.errors import ConfigError

Command = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class CommandGroup:
    """Chooses a command by the first word.

    Attributes:
        name: what a person types before that word.
        about: in a sentence.
        commands: for each what it does, and the function that carries it out and returns an exit code.
        flags: options that the group's owner answers itself, for suggestions.
        closing: the last line of the overview.
    """

    name: str
    about: str
    commands: Mapping[str, tuple[str, Command]]
    flags: tuple[str, ...] = ()
    closing: str = ""

    def overview(self) -> str:
        """What `--help` prints."""
        lines = [f"usage: {self.name} COMMAND ...", "", self.about, ""]
        lines += [f"  {name:<10}{about}" for name, (about, _) in self.commands.items()]
        return "\n".join([*lines, "", f"Options of a command: {self.name} COMMAND --help.{self.closing}"])

    def __call__(self, arguments: Sequence[str]) -> int:
        """Carry out one command line; errors are raised.

        Raises:
            ConfigError: there is no such command.
        """
        if not arguments or arguments[0] in {"-h", "--help", "help"}:
            print(self.overview())
            return 0
        chosen = arguments[0]
        if chosen not in self.commands:
            kind = "option" if chosen.startswith("-") else "command"
            hint = did_you_mean(chosen, [*self.commands, *self.flags]) or f"; there are {', '.join(self.commands)}"
            of = "" if self.name == "surnia" else f" of {self.name}"
            raise ConfigError(f"command line: unknown {kind} '{chosen}'{of}{hint}")
        return self.commands[chosen][1](list(arguments[1:]))
