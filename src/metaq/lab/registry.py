"""Names of networks, data sets and presets, each with the place that :func:`pkgutil.resolve_name` imports it from.

So nothing is imported before it is used: the commands list these names without PyTorch.
"""

NETWORKS = {
    "lenet300": "metaq.lab.nets.lenets:LeNet300",
    "lenet5": "metaq.lab.nets.lenets:LeNet5",
    "lenet5-caffe": "metaq.lab.nets.lenets:LeNet5Caffe",
    "resnet20": "metaq.lab.nets.photographs:ResNet20",
    "vgg11": "metaq.lab.nets.photographs:VGG11",
}
"""Classes of networks, built without arguments."""

DATA_SETS = {
    "cifar10": "metaq.lab.data.cifar10:load_cifar10",
    "digits": "metaq.lab.data.digits:load_digits",
    "mnist": "metaq.lab.data.mnist:load_mnist",
}
"""Functions from :class:`metaq.lab.data.dataset.LoadOptions` to splits."""

PRESETS = {
    "lenet5-mnist": "metaq.lab.train.presets:LENET5_MNIST",
    "lenet5-digits": "metaq.lab.train.presets:LENET5_DIGITS",
    "lenet300-mnist": "metaq.lab.train.presets:LENET300_MNIST",
    "lenet300-digits": "metaq.lab.train.presets:LENET300_DIGITS",
    "resnet20-cifar10": "metaq.lab.train.presets:RESNET20_CIFAR10",
    "resnet20-cifar10-float": "metaq.lab.train.presets:RESNET20_CIFAR10_FLOAT",
    "vgg11-cifar10": "metaq.lab.train.presets:VGG11_CIFAR10",
    "vgg11-cifar10-float": "metaq.lab.train.presets:VGG11_CIFAR10_FLOAT",
    "thesis": "metaq.lab.train.presets:THESIS",
    "thesis-digits": "metaq.lab.train.presets:THESIS_DIGITS",
}
"""Configurations of trainings."""
