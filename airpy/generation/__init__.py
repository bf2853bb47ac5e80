"""From ids to more ids: what to generate, the token loop, stopping, streaming."""

from airpy.generation.config import GenerationConfig
from airpy.generation.outputs import CausalLMOutput, GenerateOutput
from airpy.generation.streamers import Streamer, TextIteratorStreamer, TextStreamer

__all__ = ["CausalLMOutput", "GenerateOutput", "GenerationConfig", "Streamer", "TextIteratorStreamer", "TextStreamer"]
