"""Frozen nets whose outputs are labels: what a picture shows, as probabilities of classes.

    spec                      net                                       classes
    efficientnet_lite0        EfficientNet-lite0, weights of ImageNet   1000 ImageNet objects
    torchvision:NAME          any torchvision classifier, its weights   1000 ImageNet objects
    torchvision:NAME=FILE     the same, weights of a checkpoint         those in FILE.classes.txt
    places365:FILE            a CSAIL Places365 checkpoint              365 scenes
    mmray:DIR                 a net trained by jobs/train_teacher.py    its own

Files:

    teacher.py      load_teacher, describe_teacher: what everything else calls
    recipes.py      a spec -> which file holds the weights and how the net is built
    nets.py         the nets in torch: pixels in, probabilities, features and grid out
    alexnet.py      the layout of one of our own nets, and layers from a trained one
    checkpoints.py  reading checkpoints that others wrote
    runtimes.py     running a net: ONNX Runtime on the CPU (exported once, cached), torch on the GPU
    labelled.py     labelled pictures of a folder or of the toy world
    train.py        training a small net of one's own
"""

from mmray.teachers.recipes import absolute_spec
from mmray.teachers.teacher import Teacher, describe_teacher, load_teacher

__all__ = ["Teacher", "absolute_spec", "describe_teacher", "load_teacher"]
