"""Tools that are Python functions: a calculator that evaluates nothing but numbers and operators."""

import ast
import operator
from typing import Annotated

from pydantic import Field

from vllm_symphony.tools import tool

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}


@tool(idempotent=True, timeout_s=2)
def calculate(formula: Annotated[str, Field(description="such as (2 + 3) * 4", max_length=200)]) -> float:
    """The value of a formula of numbers, + - * / and brackets."""
    return value(ast.parse(formula, mode="eval").body)


def value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](value(left), value(right))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -value(operand)
    raise ValueError("only numbers, + - * / and brackets")
