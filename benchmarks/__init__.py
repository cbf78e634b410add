"""Benchmarks against every peer that this machine can run.

    python -m benchmarks.dwconv       one depthwise layer at a time; likewise pwconv and separable
    python -m benchmarks.mobilenet    the whole net, or its layers one by one (--per-layer)
    python -m benchmarks all          all of these: every layer, width, resolution and batch
    python -m benchmarks compare      what got slower between two runs
    python -m benchmarks summary      ours, each peer and the floor, of result files
    python -m benchmarks.gpu_check    everything, step by step, on a machine with a GPU
    python -m benchmarks report       result files as one HTML page with charts (the extra ``report``)

Run them from the root of a checkout. ``rich`` draws the progress bar where it is installed; nothing else is
needed but torch and this project. Layers are data in ``shapes/``; a peer is one file in ``peers/``; what is in the
files that they write, ``result_files.py`` says. Other inference libraries (the extra ``peers``) take part with
``--peers all``.
"""
