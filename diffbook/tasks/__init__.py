"""What a model is given and what it is asked: text, needles, in-context learning, faithfulness."""
