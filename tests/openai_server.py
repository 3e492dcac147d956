"""A small server of the OpenAI API over a real transformers model, and a server of answers that a test dictates.

python tests/openai_server.py MODEL PORT, with a model as `base.model` names it, serves until it is interrupted.
"""

import contextlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from llmrec.config import BaseConfig
from llmrec.models.base import load_base

GIVEN, IGNORED, REFUSED = "given", "ignored", "refused"
"""What becomes of a request's log-probabilities."""


@contextlib.contextmanager
def answering(respond, port=0):
    """Serve `respond(path, headers, body) → (status, headers, content)` on a loopback port; the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, content = respond(self.path, self.headers, body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has gone
                self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class ServedModel:
    """Answers requests with a model's own probabilities and greedy tokens.

    Attributes:
        asked: bodies of the requests so far.
        fails_after: number of requests after which the server answers with an error; None for never.
    """

    def __init__(self, model, tokenizer, log_probs=GIVEN, name="small"):
        self.name = name
        self.model, self.tokenizer, self.log_probs = model.eval(), tokenizer, log_probs
        self.asked, self.headers, self.fails_after = [], [], None
        self._lock = threading.Lock()

    def __call__(self, path, headers, body):
        with self._lock:
            self.asked.append(body)
            self.headers.append(headers)
            if self.fails_after is not None and len(self.asked) > self.fails_after:
                return 503, {}, {"error": {"message": "overloaded"}}
            if body["model"] != self.name:
                return 404, {}, {"error": {"message": f"The model `{body['model']}` does not exist."}}
            if self.log_probs == REFUSED and body.get("logprobs"):
                return 400, {}, {"error": {"message": "logprobs: not supported"}}
            text, top = self._complete(self._prompt(path, body), body["max_tokens"])
        wanted = bool(body.get("logprobs")) and self.log_probs == GIVEN
        if path == "/v1/completions":
            choice = {"text": text, "logprobs": {"top_logprobs": [dict(top)]} if wanted else None}
        else:
            entries = [{"token": token, "logprob": value} for token, value in top]
            choice = {"message": {"role": "assistant", "content": text}}
            choice["logprobs"] = {"content": [{"top_logprobs": entries}]} if wanted else None
        return 200, {"Content-Type": "application/json"}, {"choices": [choice]}

    def _prompt(self, path, body):
        if path == "/v1/completions":
            return self.tokenizer(body["prompt"])["input_ids"]
        if self.tokenizer.chat_template is None:
            texts = [message["content"] for message in body["messages"]]
            return self.tokenizer("\n\n".join(texts) + "\nAnswer:")["input_ids"]
        rendered = self.tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, tokenize=False
        )
        return self.tokenizer(rendered, add_special_tokens=False)["input_ids"]

    @torch.inference_mode()
    def _complete(self, tokens, length):
        """Greedy text, and the likeliest first tokens with their log-probabilities."""
        made, top, cache, ids = [], None, None, torch.tensor([tokens])
        while len(made) < length:
            out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            log_probs, cache = out.logits[0, -1].float().log_softmax(0), out.past_key_values
            if top is None:
                values, best = log_probs.topk(20)
                top = [
                    (self.tokenizer.decode([token]), value)
                    for token, value in zip(best.tolist(), values.tolist(), strict=True)
                ]
            token = int(log_probs.argmax())
            if token == self.tokenizer.eos_token_id:
                break
            made.append(token)
            ids = torch.tensor([[token]])
        return self.tokenizer.decode(made), top


if __name__ == "__main__":
    base = load_base(BaseConfig(model=sys.argv[1], dtype="bfloat16"), [], 0)
    served = ServedModel(*base, name=sys.argv[1].rpartition("/")[2])
    with answering(served, int(sys.argv[2])) as address, contextlib.suppress(KeyboardInterrupt):
        print(f"{served.name} on {address}", flush=True)
        threading.Event().wait()
