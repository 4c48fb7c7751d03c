"""`python -m quantfair`: the command line."""

from quantfair.orchestrator.commands.app import app

if __name__ == "__main__":
    app(prog_name="quantfair")
