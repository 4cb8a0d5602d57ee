"""The activation's constants (StyleGAN2, Karras et al. 2020): slope 0.2, output scaled to keep unit variance."""

import math

LEAKY_SLOPE = 0.2
LEAKY_GAIN = math.sqrt(2.0)
