from trio_eventlog.cli.arguments import Commands


def add_parser(commands: Commands) -> None:
    pass
