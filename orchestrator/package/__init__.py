"""Quantfair: which groups lose when an image classifier is quantized."""

from quantfair.orchestrator.checkout import put_checkout_last

put_checkout_last()
