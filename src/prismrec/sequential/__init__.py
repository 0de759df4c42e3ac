"""HaNoRec: a multimodal language model reads histories, tuned by supervision and by preference."""
