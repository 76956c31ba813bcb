"""What QTensor does beyond holding data: the dispatch table and the files that fill it.

`octavo.tensor` needs only `dispatch` and `qparams`; `octavo` imports the other files, which
register themselves.
"""
