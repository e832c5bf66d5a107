"""Completion scripts for bash, zsh and fish, generated from an argparse parser.

The scripts contain all words: completing does not start Python.
"""

import argparse
from collections.abc import Iterator, Sequence

SHELLS = ("bash", "zsh", "fish")


def script(shell: str, parser: argparse.ArgumentParser, settings: Sequence[str]) -> str:
    """The completion script for a shell.

    Args:
        shell: one of `SHELLS`.
        parser: with subparsers.
        settings: names of settings, completed after --set.

    Raises:
        ValueError: an unknown shell.
    """
    if shell == "bash":
        return _bash(parser, settings)
    if shell == "zsh":
        # zsh runs bash's script through bashcompinit.
        return "autoload -U +X bashcompinit && bashcompinit\n" + _bash(parser, settings)
    if shell == "fish":
        return _fish(parser, settings)
    raise ValueError(f"shell is one of {', '.join(SHELLS)}. Received: {shell!r}")


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """{command: its subparser}."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _help_of(parser: argparse.ArgumentParser, command: str) -> str:
    """The help text of a command; "" if it has none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                if choice.dest == command:
                    return choice.help or ""
    return ""


def _options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options of a parser, without hidden ones."""
    for action in parser._actions:
        if action.option_strings and action.help != argparse.SUPPRESS:
            yield action


def _words(action: argparse.Action, settings: Sequence[str]) -> list[str]:
    """The values that an option or an argument allows; empty for files and free text."""
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    if action.dest == "set":
        return [f"{name}=" for name in settings]
    if action.dest == "names":
        return list(settings)
    if action.dest == "weights":
        return ["coco", "imagenet", "last", "none"]
    if action.dest == "config":
        return ["Config", "SmallConfig", "PaperConfig", "PaperC4Config"]
    return []


def _bash(parser: argparse.ArgumentParser, settings: Sequence[str]) -> str:
    name = parser.prog
    commands = _commands(parser)
    cases = []
    for command, command_parser in commands.items():
        options: list[str] = []
        values = []
        for action in _options(command_parser):
            options += action.option_strings
            words = _words(action, settings)
            if words:
                pattern = "|".join(action.option_strings)
                values.append(f'        {pattern}) words="{" ".join(words)}" ;;')
        positional: list[str] = []
        for action in command_parser._actions:
            if not action.option_strings:
                positional += _words(action, settings)
        lines = [
            f"    {command})",
            f'      options="{" ".join(options)}"',
            f'      free="{" ".join(positional)}"',
        ]
        if values:
            lines += ['      case "$option" in', *values, "      esac"]
        cases.append("\n".join([*lines, "      ;;"]))
    body = "\n".join(cases)
    return f"""_{name}() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" option="" words="" options="" free="" given=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(commands)} --help --version" -- "$current"))
    return
  fi
  # --option=value is three words to bash and one to zsh, --option value two to both.
  if [[ "$current" == --*=* ]]; then
    option="${{current%%=*}}"
    given="$option="
    current="${{current#*=}}"
  elif [ "$current" = "=" ]; then
    option="${{COMP_WORDS[COMP_CWORD-1]}}"
    current=""
  elif [ "${{COMP_WORDS[COMP_CWORD-1]}}" = "=" ]; then
    option="${{COMP_WORDS[COMP_CWORD-2]}}"
  else
    option="${{COMP_WORDS[COMP_CWORD-1]}}"
  fi
  case "${{COMP_WORDS[1]}}" in
{body}
  esac
  if [ -n "$words" ]; then
    COMPREPLY=($(compgen -P "$given" -W "$words" -- "$current"))
    case "${{COMPREPLY[0]}}" in *=) compopt -o nospace 2>/dev/null ;; esac
  elif [ -n "$given" ]; then
    local IFS=$'\n'
    COMPREPLY=($(compgen -P "$given" -f -- "$current"))
  elif [ "${{current:0:1}}" = "-" ]; then
    COMPREPLY=($(compgen -W "$options" -- "$current"))
  elif [ -n "$free" ]; then
    COMPREPLY=($(compgen -W "$free" -- "$current"))
  fi
}}
complete -o default -o bashdefault -F _{name} {name}
"""


def _fish(parser: argparse.ArgumentParser, settings: Sequence[str]) -> str:
    name = parser.prog
    commands = _commands(parser)
    lines = [
        f"complete -c {name} -n __fish_use_subcommand -l help -d 'show the commands'",
        f"complete -c {name} -n __fish_use_subcommand -l version -d 'show the version'",
    ]
    for command, command_parser in commands.items():
        description = _quoted(_help_of(parser, command))
        lines.append(
            f"complete -c {name} -f -n __fish_use_subcommand -a {command} -d {description}"
        )
        condition = f"-n '__fish_seen_subcommand_from {command}'"
        for action in command_parser._actions:
            words = _words(action, settings)
            line = f"complete -c {name} {condition}"
            if action.option_strings:
                for option in action.option_strings:
                    kind = "-s"
                    if option.startswith("--"):
                        kind = "-l"
                    line += f" {kind} {option.lstrip('-')}"
                if action.nargs != 0:
                    line += " -r"
            elif not words:
                continue
            if words:
                line += f" -f -a {_quoted(' '.join(words))}"
            text = (action.help or "").replace("%(default)s", str(action.default))
            lines.append(f"{line} -d {_quoted(text)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A text quoted for fish."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
