"""Golden files of the official modules run through ours."""
