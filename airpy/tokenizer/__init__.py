"""Text to token ids and back, from what a GGUF file says about its vocabulary."""

from airpy.tokenizer.batch import BatchEncoding
from airpy.tokenizer.decode import StreamDecoder
from airpy.tokenizer.tokenizer import Tokenizer

__all__ = ["BatchEncoding", "StreamDecoder", "Tokenizer"]
