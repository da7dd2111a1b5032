"""One file a library: each turns padded arrays into logits and knows nothing of queues, texts or HTTP."""
