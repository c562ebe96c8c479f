"""The joint model of pictures and tags: learn each alone, then join them higher up.

Files:

    vocabulary.py    raw tags -> normalised tags -> the vocabulary of a training split
    data.py          rows of an image dataset -> batches
    model.py         the two towers, what joins them, and the model folder
    losses.py        tags that are noisy and partial; pictures and tag sets that belong together
    pretrain.py      the tasks that train each tower alone
    task.py          the task that trains all of it
    train.py         a dataset and a few choices -> the three training jobs
    dbm.py           the historic model (Srivastava and Salakhutdinov 2012)
    predict.py       `Tagger`: what users call
    index.py         search among millions of vectors
    tag.py           tags and search vectors of any number of files
    metrics.py       what is measured, and
    baselines.py     what it is measured against
    evaluate.py      the table
"""
