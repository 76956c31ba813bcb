"""What is computed: sizes, data and reference results, one file for each kind of work."""

from octavo.bench.cases.accuracy import AccuracyCase
from octavo.bench.cases.attention import AttentionCase
from octavo.bench.cases.base import Case, Check
from octavo.bench.cases.calibration import CalibrationCase
from octavo.bench.cases.conv import ConvCase
from octavo.bench.cases.conv_transpose import ConvTransposeCase
from octavo.bench.cases.elementwise import ElementwiseCase
from octavo.bench.cases.embedding import EmbeddingCase
from octavo.bench.cases.fake_quantize import FakeQuantizeCase
from octavo.bench.cases.image import ImageCase
from octavo.bench.cases.linear import LinearCase
from octavo.bench.cases.linear_function import LinearFunctionCase
from octavo.bench.cases.model import ModelCase
from octavo.bench.cases.normalize import NormalizeCase
from octavo.bench.cases.rnn import RnnCase

__all__ = [
    "AccuracyCase",
    "AttentionCase",
    "CalibrationCase",
    "Case",
    "Check",
    "ConvCase",
    "ConvTransposeCase",
    "ElementwiseCase",
    "EmbeddingCase",
    "FakeQuantizeCase",
    "ImageCase",
    "LinearCase",
    "LinearFunctionCase",
    "ModelCase",
    "NormalizeCase",
    "RnnCase",
]
