"""How PTX types, names, literals and special registers are spelled in the generated C++."""

from __future__ import annotations

import re

from .ptx import TYPE_BITS, Instruction

FLOAT_FORMATS = {
    "f16": "F16",
    "bf16": "BF16",
    "f32": "F32",
    "f64": "F64",
    "tf32": "TF32",
    "f16x2": "F16x2",
    "bf16x2": "BF16x2",
}
SPECIAL_REGISTERS = {
    "%laneid": "lane",
    "%warpid": "warp",
    "%nwarpid": "((block_size.x * block_size.y * block_size.z + 31) / 32)",
    "%clock": "0u",
    "%clock64": "0ull",
    "%clock_hi": "0u",
    "%globaltimer": "0ull",
    "%smid": "0u",
    "%nsmid": "1u",
    "%gridid": "0ull",
    "%dynamic_smem_size": "dynamic_shared_size()",
    "%total_smem_size": "total_shared_size()",
    "WARP_SZ": "32u",
    "%lanemask_eq": "lanes_equal(lane)",
    "%lanemask_lt": "lanes_below(lane)",
    "%lanemask_le": "lanes_up_to(lane)",
    "%lanemask_gt": "lanes_above(lane)",
    "%lanemask_ge": "lanes_from(lane)",
}
SPECIAL_VECTORS = {"%tid": "thread", "%ntid": "block_size", "%ctaid": "block", "%nctaid": "grid_size"}


def is_float(type_name: str) -> bool:
    return type_name in FLOAT_FORMATS


def register_type(type_name: str) -> str:
    """The C++ type of a register's bits."""
    return "bool" if type_name == "pred" else f"uint{TYPE_BITS[type_name]}_t"


def integer_type(type_name: str) -> str:
    """The C++ type in which an integer instruction computes."""
    return f"int{TYPE_BITS[type_name]}_t" if type_name.startswith("s") else register_type(type_name)


def float_format(ins: Instruction, type_name: str) -> str:
    return "F32Ftz" if type_name == "f32" and ins.has("ftz") else FLOAT_FORMATS[type_name]


def identifier(name: str) -> str:
    return name.lstrip("%").replace("$", "_S")


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def literal(operand: str) -> str | None:
    """The C++ spelling of a PTX number, or None for another operand."""
    if re.match(r"-?\d+U?$", operand):
        return f"({operand.rstrip('U')}ll)"
    if re.match(r"-?0[xX][0-9a-fA-F]+U?$", operand):
        return f"({operand.rstrip('U')}ull)"
    if re.match(r"0[fF][0-9a-fA-F]{8}$", operand):
        return f"0x{operand[2:]}u"
    if re.match(r"0[dD][0-9a-fA-F]{16}$", operand):
        return f"0x{operand[2:]}ull"
    return None
