"""Talks to a vision-language model, on a server or on this machine.

A chat is a function `messages -> reply`. Messages follow the OpenAI chat protocol: a role, and a content that
is a text or a list of parts (`text_part`, `image_part`). `connect_server` returns a chat with a server,
`load_local_model` a chat with a local model. Server addresses and keys are secrets: they never appear in a
message, a log or a file, even if a server echoes them.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from toolkit.core.errors import CastmixError

if TYPE_CHECKING:
    import numpy as np
    import openai

Message = dict[str, Any]
Chat = Callable[[list[Message]], str]

MAX_IMAGE_SIDE = 768
"""Images are downscaled to this many pixels per side: models use no more, and servers limit the size."""

MAX_REPLY_TOKENS = 512
"""Maximum number of tokens in a reply of a local model."""


class ServerError(CastmixError):
    """The server failed: it is unreachable, too slow or overloaded, or it rejects the request."""


def text_part(text: str) -> dict[str, Any]:
    """Return a text part of a message."""
    return {"type": "text", "text": text}


def image_part(frame: np.ndarray) -> dict[str, Any]:
    """Return an image part of a message: a frame, uint8 (H, W, 3), as a JPEG in a data URL."""
    from PIL import Image

    image = Image.fromarray(frame)
    image.thumbnail((MAX_IMAGE_SIDE, MAX_IMAGE_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def connect_server(
    server: str | None = None,
    key: str | None = None,
    model: str | None = None,
    *,
    timeout: float = 120.0,
    retries: int = 4,
) -> Chat:
    """Return a chat with a model on an OpenAI-compatible server (vLLM, Ollama, llama.cpp, or a hosted one).

    Requests that fail with 429, 5xx, a timeout or a broken connection are retried, with growing pauses or
    after the server's Retry-After time (up to two minutes). Replies are sampled at temperature 0.

    Args:
        server: Address of the server, such as "http://localhost:8000/v1". Default: the environment variable
            CASTMIX_VLM_URL or OPENAI_BASE_URL, otherwise OpenAI's server if there is a key.
        key: API key, if the server needs one. Default: CASTMIX_VLM_KEY or OPENAI_API_KEY.
        model: Name of the model on the server. Default: CASTMIX_VLM_MODEL, otherwise the server's only model.
        timeout: Seconds to wait for one reply.
        retries: Number of retries after a failure.

    Raises:
        CastmixError: No server is given, or the address or key is malformed.
        ServerError: The request for the server's models failed. The returned chat raises it too if the server
            gives no usable answer.
    """
    server = server or os.environ.get("CASTMIX_VLM_URL") or os.environ.get("OPENAI_BASE_URL")
    key = (key or os.environ.get("CASTMIX_VLM_KEY") or os.environ.get("OPENAI_API_KEY") or "").strip()
    if not server and not key:
        raise CastmixError(
            "no server given: pass --server http://localhost:8000/v1 or set CASTMIX_VLM_URL "
            "(and CASTMIX_VLM_KEY)"
        )
    if not all("!" <= letter <= "~" for letter in key):
        raise CastmixError(
            "the server's key has characters that an HTTP header cannot contain: check that it is complete"
        )
    address = _address(server or "https://api.openai.com/v1")
    client = _client(address, key, timeout, retries)
    secrets = {secret: "***" for secret in (key, address, urlsplit(address).netloc) if secret}

    def post(path: str, question: Mapping[str, Any] | None) -> Any:
        return _post(client, path, question, secrets)

    name = model or os.environ.get("CASTMIX_VLM_MODEL") or _only_model(post("/models", None))

    def chat(messages: list[Message]) -> str:
        answer = post("/chat/completions", {"model": name, "messages": messages, "temperature": 0})
        # Secrets are removed from replies too, except short placeholder keys ("EMPTY", "ollama"), which may
        # be ordinary words of the reply.
        return _scrub(
            _content(answer), {secret: stars for secret, stars in secrets.items() if len(secret) > 8}
        )

    return chat


def load_local_model(model: str | None) -> Chat:
    """Return a chat with a vision-language model on this machine, on the GPU if there is one.

    Replies are decoded greedily.

    Args:
        model: A folder, or an id on the Hugging Face Hub. The model must be one that transformers loads as an
            image-text-to-text model, and its processor must have a chat template.

    Raises:
        CastmixError: No model is given, or it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if not model:
        raise CastmixError(
            "no vision-language model given: pass --model with a folder or an id on the Hugging Face Hub"
        )
    try:
        processor: Any = AutoProcessor.from_pretrained(model)
        network: Any = AutoModelForImageTextToText.from_pretrained(model, dtype="auto")
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise CastmixError(f"{model} cannot be loaded as a vision-language model: {reason:.300}") from error
    network = network.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def chat(messages: list[Message]) -> str:
        inputs = processor.apply_chat_template(
            list(map(_for_processor, messages)),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(network.device, dtype=network.dtype)
        tokens = network.generate(**inputs, max_new_tokens=MAX_REPLY_TOKENS, do_sample=False)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        return str(processor.batch_decode(new, skip_special_tokens=True)[0])

    return chat


def _for_processor(message: Message) -> Message:
    """Convert a message for transformers' chat templates: the content as parts, images as PIL images."""
    from PIL import Image

    def part(one: Mapping[str, Any]) -> dict[str, Any]:
        if one["type"] == "text":
            return dict(one)
        file = io.BytesIO(base64.b64decode(one["image_url"]["url"].partition(",")[2]))
        return {"type": "image", "image": Image.open(file)}

    content = message["content"]
    parts = [text_part(content)] if isinstance(content, str) else list(map(part, content))
    return {**message, "content": parts}


def _address(server: str) -> str:
    """Return the base URL, ending with the API version. The error message does not contain the address."""
    address = server.strip().rstrip("/").removesuffix("/chat/completions")
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise CastmixError(
            "the server's address must look like http://localhost:8000/v1 (--server, CASTMIX_VLM_URL)"
        )
    return address if parts.path.strip("/") else f"{address}/v1"


def _client(address: str, key: str, timeout: float, retries: int) -> openai.OpenAI:
    import openai

    # At INFO level these libraries log every address that they request.
    for library in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # The library requires a key even if the server needs none.
    return openai.OpenAI(base_url=address, api_key=key or "none", timeout=timeout, max_retries=retries)


def _post(
    client: openai.OpenAI, path: str, question: Mapping[str, Any] | None, secrets: Mapping[str, str]
) -> Any:
    """Send a request and return the answer as JSON: POST with the body `question`, or GET if it is None."""
    import openai

    try:
        if question is None:
            body = client.get(path, cast_to=str)
        else:
            body = client.post(path, cast_to=str, body=question)
    except openai.APITimeoutError:
        failure = f"gave no answer within {client.timeout:g} s, in {client.max_retries + 1} attempts"
    except openai.APIConnectionError as error:
        failure = f"cannot be reached ({error.__cause__ or error})"
    except openai.APIStatusError as error:
        failure = f"answered {error.status_code}: {error.message}"
    else:
        try:
            return json.loads(body)
        except ValueError:
            failure = f"answered with something that is not JSON: {body!r}"
    # Raised outside of the except blocks, because the library's exceptions contain what the server echoed.
    raise ServerError(f"the server {_scrub(failure, secrets):.300}")


def _only_model(answer: Any) -> str:
    rows = answer.get("data") if isinstance(answer, dict) else None
    names = [str(row.get("id")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if len(names) == 1:
        return names[0]
    raise CastmixError(
        f"the server has {len(names)} models, {names[:20]}: choose one with --model or CASTMIX_VLM_MODEL"
    )


def _content(answer: Any) -> str:
    try:
        content = answer["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        raise ServerError("the server's answer is not a chat completion") from None
    if not isinstance(content, str) or not content.strip():
        raise CastmixError("the model answered without any text")
    return content


def _scrub(text: str, secrets: Mapping[str, str]) -> str:
    for secret, stars in secrets.items():
        text = text.replace(secret, stars)
    return text
