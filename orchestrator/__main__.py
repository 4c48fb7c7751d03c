"""`python -m orchestrator`: the command line of this checkout, installed or not."""

from .checkout import use_checkout

if __name__ == "__main__":
    use_checkout()

    from quantfair.orchestrator.commands.app import app

    app(prog_name="python -m orchestrator")
