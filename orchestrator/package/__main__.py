"""The command `quantfair`, also as `python -m quantfair`."""

from quantfair.orchestrator.checkout import put_current_folder_last
from quantfair.orchestrator.commands.app import app


def main() -> None:
    """Run the command line."""
    put_current_folder_last()
    app(prog_name="quantfair")


if __name__ == "__main__":
    main()
