"""stand-in"""

from quant.spec import MethodSpec


def find_unsupported(spec: MethodSpec, runtime: str) -> str | None:
    """Return why a runtime cannot represent a trial, or None."""
    if getattr(spec, "preset", "none") == "iao":
        return "preset = 'iao'"
    if runtime == "tensorrt" and getattr(spec, "act_signed", "always") != "always":
        return "act_signed"
    return None
