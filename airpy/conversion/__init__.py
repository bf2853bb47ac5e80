"""Models from Hugging Face's directories to GGUF files, streamed."""

from airpy.conversion.directory import ConvertPlan, convert, plan_convert
from airpy.conversion.families import FAMILIES

__all__ = ["FAMILIES", "ConvertPlan", "convert", "plan_convert"]
