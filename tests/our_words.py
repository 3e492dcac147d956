"""Whether a message to a user is ours: one short line, without the words in which libraries describe their errors."""

import re

LONGEST = 300
FOREIGN = re.compile(
    r"Input should|valid (dictionary|list|tuple|string|integer)|instance of|\[type=|literal\[|constrained-|function-"
    r"|deserializ|SafetensorError|HeaderToo|InvalidHeader|IncompleteBuffer|InvalidOffset|untagged enum"
    r"|Polars|ComputeError|SchemaError|out of specification|PARQUET file|expected value at|at line \d+ column"
    r"|PeftModel|LoraConfig|state_dict|size mismatch|ignore_mismatched|SFTConfig|allow_pickle|Magic number"
    r"|can't decode|codec can't|Errno|Expecting value|Traceback|internal error|site-packages|[a-z]Error:"
)


def assert_ours(message):
    """Fail unless a message is one line of at most 300 characters, in our words."""
    assert 0 < len(message) <= LONGEST and "\n" not in message, message
    assert not FOREIGN.search(message), message
