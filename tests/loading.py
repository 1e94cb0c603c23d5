"""load, as tests mean it unless they say otherwise: on the CPU, in fp32.

`brimful.load` takes a GPU where there is one, and bf16 where the CPU has it, and measures which
runtime is the fastest for many images: what a test compares would depend on the machine.
"""

from functools import partial

import brimful

load = partial(brimful.load, device="cpu", precision="fp32", images=1)
