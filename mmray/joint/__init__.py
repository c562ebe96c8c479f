"""The joint model of pictures and tags: learn each alone, then join them higher up.

Files:

    config.py        choices; the flags of jobs/train_joint.py
    vocabulary.py    raw tags -> normalised tags -> the vocabulary of a training split
    data.py          rows of an image dataset -> batches
    model.py         the two towers, and what joins them
    losses.py        tags that are noisy and partial; pictures and tag sets that belong together
    pretrain.py      the tasks that train each tower alone
    task.py          the task that trains all of it
    train.py         a dataset and a few choices -> the three training jobs
    pixels.py        learning a backbone from pixels, with layers of an ImageNet net, and
    finetune.py      describing a dataset's pictures through it
    dbm.py           the historic model (Srivastava and Salakhutdinov 2012), and
    historic.py      its training and use in the places of the modern one
    memory.py        the training pictures that a model remembers
    regression.py    regressions of the tags, from sums over all training pictures
    scorer.py        a trained model on features and tag sets
    finish.py        what a model keeps of its dataset, and the model folder
    predict.py       `Tagger`: what users call
    index.py         search among millions of vectors
    tag.py           tags and search vectors of any number of files, by the stage in
    tag_stages.py
    metrics.py       what is measured
    baselines.py     what it is measured against; the nets among it are in dual_encoder.py
    probes.py        pictures with all that is known of them
    classes.py       classes from joint vectors, and from features and tags as they are
    arithmetic.py    swaps and analogies
    evaluate.py      all of it; table.py prints it
    protocol.py      the protocol of MIR-Flickr
"""
