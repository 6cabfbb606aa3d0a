/**
 * LeNet-5 (two convolutions with tanh and average pooling, three linear layers), computed in doubles from decoded tensors.
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

export class LeNet5 {
  /** @param {Map<string, import("./metaq/tensor.js").Tensor>} tensors */
  constructor(tensors) {
    this.parameters = new Map(
      [...tensors].map(([name, tensor]) => [name, { shape: tensor.shape, values: tensor.values() }]),
    );
  }

  /**
   * All layers for one image.
   * @param {ArrayLike<number>} pixels 28 * 28 numbers of 0 to 255, ink being high
   * @returns {{layers: Layer[], probabilities: number[]}}
   */
  run(pixels) {
    const image = layer(
      "picture",
      1,
      IMAGE_SIZE,
      IMAGE_SIZE,
      Float64Array.from(pixels, (pixel) => pixel / 255),
    );
    const conv1 = this.#convolution("conv1", image);
    const pool1 = averagePool("pool1", conv1);
    const conv2 = this.#convolution("conv2", pool1);
    const pool2 = averagePool("pool2", conv2);
    const fc1 = tanhOf(this.#linear("fc1", pool2));
    const fc2 = tanhOf(this.#linear("fc2", fc1));
    const logits = this.#linear("fc3", fc2);
    return { layers: [image, conv1, pool1, conv2, pool2, fc1, fc2, logits], probabilities: softmax(logits.values) };
  }

  #convolution(name, input) {
    const { shape, values } = this.parameters.get(`${name}.weight`);
    const bias = this.parameters.get(`${name}.bias`).values;
    const [channels, inputChannels, size] = shape;
    const [height, width] = [input.height - size + 1, input.width - size + 1];
    const output = new Float64Array(channels * height * width);
    for (let channel = 0; channel < channels; channel += 1) {
      const kernel = values.subarray(
        channel * inputChannels * size * size,
        (channel + 1) * inputChannels * size * size,
      );
      for (let y = 0; y < height; y += 1) {
        for (let x = 0; x < width; x += 1) {
          output[(channel * height + y) * width + x] = bias[channel] + windowSum(input, kernel, size, y, x);
        }
      }
    }
    return tanhOf(layer(name, channels, height, width, output));
  }

  #linear(name, input) {
    const { shape, values } = this.parameters.get(`${name}.weight`);
    const bias = this.parameters.get(`${name}.bias`).values;
    const [rows, columns] = shape;
    const output = new Float64Array(rows);
    for (let row = 0; row < rows; row += 1) {
      let sum = bias[row];
      for (let column = 0; column < columns; column += 1) sum += values[row * columns + column] * input.values[column];
      output[row] = sum;
    }
    return layer(name, 1, 1, rows, output);
  }
}

function layer(name, channels, height, width, values) {
  return { name, channels, height, width, values };
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

function averagePool(name, { channels, height, width, values }) {
  const [pooledHeight, pooledWidth] = [height / POOLING, width / POOLING];
  const output = new Float64Array(channels * pooledHeight * pooledWidth);
  for (let i = 0; i < values.length; i += 1) {
    const [row, x] = [Math.floor(i / width), i % width];
    const [channel, y] = [Math.floor(row / height), row % height];
    const place = (channel * pooledHeight + Math.floor(y / POOLING)) * pooledWidth + Math.floor(x / POOLING);
    output[place] += values[i] / POOLING ** 2;
  }
  return layer(name, channels, pooledHeight, pooledWidth, output);
}

function tanhOf(input) {
  return { ...input, values: input.values.map(Math.tanh) };
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}
