"""ctxcomp as an HTTP service: compress passages or messages, keep originals, stand before language models."""

from ctxcomp_service.app import create_app
from ctxcomp_service.settings import Settings

__all__ = ["Settings", "create_app"]
