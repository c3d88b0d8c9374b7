"""ModelService (edge/model_service.py). What each RPC means stands in protos/symphony/v1/model.proto."""

from __future__ import annotations

from typing import Any

from vllm_symphony.abi.calls import Detokenize, NoArgs, Tokenize
from vllm_symphony.abi.types import pack_tokens, unpack_tokens
from vllm_symphony.edge.credentials import caller
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.proto.message import to_message
from vllm_symphony.proto.v1 import model_pb2 as pb
from vllm_symphony.proto.v1.model_pb2_grpc import ModelServiceServicer


class ModelService(ModelServiceServicer):
    """The model's limits and its tokenizer."""

    def __init__(self, kernel: KernelLink) -> None:
        self._kernel = kernel

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:  # noqa: N802
        return to_message(await self._kernel.call("model_info", NoArgs(), caller(context)), pb.GetModelResponse())

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:  # noqa: N802
        result = await self._kernel.call("tokenize", Tokenize(request.text, special=not request.plain), caller(context))
        return pb.TokenizeResponse(tokens=unpack_tokens(result.tokens))

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Any) -> pb.DetokenizeResponse:  # noqa: N802
        args = Detokenize(pack_tokens(request.tokens), skip_special=not request.keep_special)
        return pb.DetokenizeResponse(text=(await self._kernel.call("detokenize", args, caller(context))).text)
