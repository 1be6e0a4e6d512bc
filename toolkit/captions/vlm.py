"""Asking a vision-language model, without saying which one: a chat is a function `messages -> reply`.

Messages are those of the OpenAI chat protocol: a role, and a content that is a text or a list of parts
(`words`, `picture`). Addresses and keys of servers are secrets here: they never reach a message, a log or a
file, whatever a server echoes.
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

LONGEST_SIDE = 768
"""Pictures are made smaller than this before they are sent: models see no more, and servers limit sizes."""


LONGEST_REPLY = 512
"""Tokens that a local model may write."""


class ServerError(CastmixError):
    """The server, not the question, is at fault: unreachable, too slow, overloaded, or it refuses us."""


def words(text: str) -> dict[str, Any]:
    """A text part of a message."""
    return {"type": "text", "text": text}


def picture(frame: np.ndarray) -> dict[str, Any]:
    """An image part of a message: the frame, uint8 (H, W, 3), as a JPEG in a data URL."""
    from PIL import Image

    image = Image.fromarray(frame)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def connect(
    server: str | None = None,
    key: str | None = None,
    model: str | None = None,
    *,
    timeout: float = 120.0,
    retries: int = 4,
) -> Chat:
    """A chat with a model behind an OpenAI-compatible server (vLLM, Ollama, llama.cpp, a hosted one).

    429, 5xx, timeouts and broken connections are tried again, with growing pauses or after the time that the
    server asks for in Retry-After (up to two minutes). Answers are made at temperature 0.

    Args:
        server: Its address, as "http://localhost:8000/v1"; else from CASTMIX_VLM_URL or OPENAI_BASE_URL, else
            OpenAI's own if there is a key.
        key: Its key, if it wants one; else from CASTMIX_VLM_KEY or OPENAI_API_KEY.
        model: The model's name there; else from CASTMIX_VLM_MODEL, else the only one that the server has.
        timeout: Seconds to wait for one answer.
        retries: How often to try again.

    Raises:
        CastmixError: No server named, or an address or key that cannot be one.
        ServerError: The server had to be asked for its models, and failed. The chat raises it too, whenever
            the server gives no usable answer.
    """
    server = server or os.environ.get("CASTMIX_VLM_URL") or os.environ.get("OPENAI_BASE_URL")
    key = (key or os.environ.get("CASTMIX_VLM_KEY") or os.environ.get("OPENAI_API_KEY") or "").strip()
    if not server and not key:
        raise CastmixError(
            "no server named: give --server http://localhost:8000/v1 or set CASTMIX_VLM_URL (CASTMIX_VLM_KEY)"
        )
    if not all("!" <= letter <= "~" for letter in key):
        raise CastmixError("the server's key has characters that no HTTP header can hold: is it complete?")
    address = _address(server or "https://api.openai.com/v1")
    client = _client(address, key, timeout, retries)
    secrets = {secret: "***" for secret in (key, address, urlsplit(address).netloc) if secret}

    def post(path: str, question: Mapping[str, Any] | None) -> Any:
        return _post(client, path, question, secrets)

    name = model or os.environ.get("CASTMIX_VLM_MODEL") or _only_model(post("/models", None))

    def chat(messages: list[Message]) -> str:
        answer = post("/chat/completions", {"model": name, "messages": messages, "temperature": 0})
        # In a reply too, unless the key is a placeholder ("EMPTY", "ollama") that is a word of the language.
        return _scrub(
            _content(answer), {secret: stars for secret, stars in secrets.items() if len(secret) > 8}
        )

    return chat


def load(model: str | None) -> Chat:
    """A chat with a vision-language model on this machine, on the GPU if there is one. Answers are greedy.

    Args:
        model: Its folder, or its name on the Hugging Face Hub; any class that transformers loads as an
            image-text-to-text model and whose processor has a chat template.

    Raises:
        CastmixError: No model named, or it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if not model:
        raise CastmixError("name the vision-language model: --model with its folder or its name on the hub")
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
        tokens = network.generate(**inputs, max_new_tokens=LONGEST_REPLY, do_sample=False)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        return str(processor.batch_decode(new, skip_special_tokens=True)[0])

    return chat


def _for_processor(message: Message) -> Message:
    """The message as transformers' chat templates take it: always parts, pictures as PIL images."""
    from PIL import Image

    def part(one: Mapping[str, Any]) -> dict[str, Any]:
        if one["type"] == "text":
            return dict(one)
        file = io.BytesIO(base64.b64decode(one["image_url"]["url"].partition(",")[2]))
        return {"type": "image", "image": Image.open(file)}

    content = message["content"]
    parts = [words(content)] if isinstance(content, str) else list(map(part, content))
    return {**message, "content": parts}


def _address(server: str) -> str:
    """The base URL that ends in the API's version; what is wrong with it is said without the address."""
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

    # At INFO these libraries log every address that they ask.
    for library in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # A local server wants no key, but the library does.
    return openai.OpenAI(base_url=address, api_key=key or "none", timeout=timeout, max_retries=retries)


def _post(
    client: openai.OpenAI, path: str, question: Mapping[str, Any] | None, secrets: Mapping[str, str]
) -> Any:
    """The server's answer as JSON; `question` None means GET."""
    import openai

    try:
        if question is None:
            body = client.get(path, cast_to=str)
        else:
            body = client.post(path, cast_to=str, body=question)
    except openai.APITimeoutError:
        failure = f"gave no answer within {client.timeout:g} s, {client.max_retries + 1} times"
    except openai.APIConnectionError as error:
        failure = f"cannot be reached ({error.__cause__ or error})"
    except openai.APIStatusError as error:
        failure = f"answered {error.status_code}: {error.message}"
    else:
        try:
            return json.loads(body)
        except ValueError:
            failure = f"answered with something that is not JSON: {body!r}"
    # Outside of the except blocks: the library's own exceptions hold what the server echoed.
    raise ServerError(f"the server {_scrub(failure, secrets):.300}")


def _only_model(answer: Any) -> str:
    rows = answer.get("data") if isinstance(answer, dict) else None
    names = [str(row.get("id")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if len(names) == 1:
        return names[0]
    raise CastmixError(f"name the model to ask (--model or CASTMIX_VLM_MODEL); the server has {names[:20]}")


def _content(answer: Any) -> str:
    try:
        content = answer["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        raise ServerError("the server answered with something that is no chat completion") from None
    if not isinstance(content, str) or not content.strip():
        raise CastmixError("the model answered without any text")
    return content


def _scrub(text: str, secrets: Mapping[str, str]) -> str:
    for secret, stars in secrets.items():
        text = text.replace(secret, stars)
    return text
