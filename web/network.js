/**
 * The networks of handwriting that this page can run, computed in doubles from decoded tensors.
 *
 * @typedef {object} Layer
 * @property {string} name
 * @property {number} channels
 * @property {number} height
 * @property {number} width
 * @property {Float64Array} values of shape (channels, height, width)
 */

export const IMAGE_SIZE = 28;
const POOLING = 2;

const relu = (value) => (value < 0 ? 0 : value);
const mean = (a, b, c, d) => (a + b + c + d) / POOLING ** 2;

/** By kind: the shapes of the weights, and the steps `[name, computation, function of every value]` of a run. */
const KINDS = [
  {
    title: "LeNet-5",
    shapes: { conv1: [6, 1, 5, 5], conv2: [16, 6, 5, 5], fc1: [120, 256], fc2: [84, 120], fc3: [10, 84] },
    steps: [
      ["conv1", convolution, Math.tanh],
      ["pool1", pooling(mean)],
      ["conv2", convolution, Math.tanh],
      ["pool2", pooling(mean)],
      ["fc1", linear, Math.tanh],
      ["fc2", linear, Math.tanh],
      ["fc3", linear],
    ],
  },
  {
    title: "LeNet-5 of Caffe",
    shapes: { conv1: [20, 1, 5, 5], conv2: [50, 20, 5, 5], fc1: [500, 800], fc2: [10, 500] },
    steps: [
      ["conv1", convolution],
      ["pool1", pooling(Math.max)],
      ["conv2", convolution],
      ["pool2", pooling(Math.max)],
      ["fc1", linear, relu],
      ["fc2", linear],
    ],
  },
  {
    title: "LeNet-300-100",
    shapes: { fc1: [300, 784], fc2: [100, 300], fc3: [10, 100] },
    steps: [
      ["fc1", linear, relu],
      ["fc2", linear, relu],
      ["fc3", linear],
    ],
  },
];

/** Says that tensors are not those of any network here. */
export class NetworkError extends Error {}

/**
 * The network that decoded tensors belong to, by their names and shapes.
 * @param {Map<string, import("./metaq/tensor.js").Tensor>} tensors
 * @returns {Network} or throws a {@link NetworkError}
 */
export function networkOf(tensors) {
  const kind = KINDS.find(({ shapes }) => isMadeOf(tensors, shapes));
  if (!kind) throw new NetworkError("Its tensors are not those of a network that this page can run.");
  return new Network(kind, tensors);
}

function isMadeOf(tensors, shapes) {
  const hasShape = (name, shape) => String(tensors.get(name)?.shape) === String(shape);
  const layers = Object.entries(shapes);
  return (
    tensors.size === 2 * layers.length &&
    layers.every(([name, shape]) => hasShape(`${name}.weight`, shape) && hasShape(`${name}.bias`, shape.slice(0, 1)))
  );
}

export class Network {
  #steps;
  #parameters;

  constructor({ title, shapes, steps }, tensors) {
    this.title = title;
    this.#steps = steps;
    const valuesOf = (name) => Float64Array.from(tensors.get(name).values(), Number);
    this.#parameters = Object.fromEntries(
      Object.entries(shapes).map(([name, shape]) => [
        name,
        { shape, weight: valuesOf(`${name}.weight`), bias: valuesOf(`${name}.bias`) },
      ]),
    );
  }

  /**
   * All layers for one image.
   * @param {ArrayLike<number>} pixels 28 * 28 numbers of 0 to 255, ink being high
   * @returns {{layers: Layer[], probabilities: number[]}}
   */
  run(pixels) {
    const image = Float64Array.from(pixels, (pixel) => pixel / 255);
    const layers = [layer("picture", 1, IMAGE_SIZE, IMAGE_SIZE, image)];
    for (const [name, compute, activation] of this.#steps) {
      const computed = compute(name, layers.at(-1), this.#parameters[name]);
      if (activation) computed.values = computed.values.map(activation);
      layers.push(computed);
    }
    return { layers, probabilities: softmax(layers.at(-1).values) };
  }
}

/** The most probable digit, or -1 if the numbers are none. @param {number[]} probabilities */
export function digitOf(probabilities) {
  return probabilities.indexOf(Math.max(...probabilities));
}

function layer(name, channels, height, width, values) {
  return { name, channels, height, width, values };
}

function convolution(name, input, { shape, weight, bias }) {
  const [channels, inputChannels, size] = shape;
  const [height, width] = [input.height - size + 1, input.width - size + 1];
  const output = new Float64Array(channels * height * width);
  const kernelSize = inputChannels * size * size;
  for (let channel = 0; channel < channels; channel += 1) {
    const kernel = weight.subarray(channel * kernelSize, (channel + 1) * kernelSize);
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        output[(channel * height + y) * width + x] = bias[channel] + windowSum(input, kernel, size, y, x);
      }
    }
  }
  return layer(name, channels, height, width, output);
}

function windowSum({ channels, height, width, values }, kernel, size, top, left) {
  let sum = 0;
  for (let channel = 0; channel < channels; channel += 1) {
    for (let y = 0; y < size; y += 1) {
      const from = (channel * height + top + y) * width + left;
      const kernelFrom = (channel * size + y) * size;
      for (let x = 0; x < size; x += 1) sum += kernel[kernelFrom + x] * values[from + x];
    }
  }
  return sum;
}

/** @param {(a: number, b: number, c: number, d: number) => number} joined makes one value of a square of four */
function pooling(joined) {
  return (name, { channels, height, width, values }) => {
    const [pooledHeight, pooledWidth] = [height / POOLING, width / POOLING];
    const output = Float64Array.from({ length: channels * pooledHeight * pooledWidth }, (_, i) => {
      const [row, x] = [Math.floor(i / pooledWidth), i % pooledWidth];
      const at = POOLING * (row * width + x);
      return joined(values[at], values[at + 1], values[at + width], values[at + width + 1]);
    });
    return layer(name, channels, pooledHeight, pooledWidth, output);
  };
}

function linear(name, input, { shape: [rows, columns], weight, bias }) {
  const output = new Float64Array(rows);
  for (let row = 0; row < rows; row += 1) {
    let sum = bias[row];
    for (let column = 0; column < columns; column += 1) sum += weight[row * columns + column] * input.values[column];
    output[row] = sum;
  }
  return layer(name, 1, 1, rows, output);
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}
