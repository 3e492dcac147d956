"""The page of `llmrec --help`: the commands under headings."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class GroupedCommands(TyperGroup):
    """The commands, which the help page lists by their `rich_help_panel`, the heading that each is added with."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of commands into a help page."""
        sections: dict[str, list[Any]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            sections.setdefault(command.rich_help_panel, []).append(command)
        width = max(map(len, self.list_commands(ctx)))
        for heading, commands in sections.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [
                        (c.name.ljust(width), c.get_short_help_str(formatter.width - 6 - width))
                        for c in commands
                    ]
                )
