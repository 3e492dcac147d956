"""A child process: serves bases one after another as a `vllm serve` command would, and asks each for logits.

python tests/plain_vllm.py ANSWERS.json < '[{"arguments": [BASE, "--dtype", …], "prompts": ["text", …]}, …]'
"""

import json
import sys
from pathlib import Path

from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.llm_engine import LLMEngine

LOGITS = 20


def ask(arguments, prompts):
    """Per prompt, the token ids that vLLM reads it as, and the logits of the likeliest next tokens.

    A request says no more than how many logits it wants; all else are the server's defaults.
    """
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    args.model = args.model_tag
    engine = LLMEngine.from_engine_args(EngineArgs.from_cli_args(args), UsageContext.OPENAI_API_SERVER)
    defaults = engine.model_config.get_diff_sampling_param()
    answers = []
    for number, prompt in enumerate(prompts):
        request = CompletionRequest(model=args.model, prompt=prompt, logprobs=LOGITS, max_tokens=1)
        engine.add_request(str(number), prompt, request.to_sampling_params(1, defaults))
        while engine.has_unfinished_requests():
            outputs = engine.step()
        (top,) = outputs[0].outputs[0].logprobs
        logits = {str(token): entry.logprob for token, entry in top.items()}
        answers.append({"ids": list(outputs[0].prompt_token_ids), "logits": logits})
    engine.engine_core.shutdown()
    return {"defaults": defaults, "answers": answers}


if __name__ == "__main__":
    answered = []
    for asked in json.load(sys.stdin):
        answered.append(ask(asked["arguments"], asked["prompts"]))
        cleanup_dist_env_and_memory()
    Path(sys.argv[1]).write_text(json.dumps(answered))
