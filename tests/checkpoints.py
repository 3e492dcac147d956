"""A `base/` folder written and loaded in one call, its catalogue beside the model."""

from llmrec import layout
from llmrec.catalogue.catalogue import Catalogue
from llmrec.models import checkpoint


def save_base(folder, model, tokenizer, vocabulary, items, sids, prompts):
    """Write a `base/` folder as runs had it before tries were saved, so that its semantic IDs are read."""
    checkpoint.save_checkpoint(folder, model, tokenizer)
    Catalogue.build(vocabulary, items, sids, prompts).save(folder)
    (folder / layout.TRIE).unlink()


def load_checkpoint(folder, adapter=None):
    """The model of a `base/` folder with an adapter, tokenizer and catalogue read for it."""
    catalogue = Catalogue.load(folder, as_trained=True)
    return checkpoint.load_checkpoint(
        folder, checkpoint.load_tokenizer(folder), catalogue.vocabulary, adapter
    )
