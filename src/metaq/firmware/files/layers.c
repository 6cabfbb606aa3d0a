/* Layers of a network: see layers.h. */
#include "layers.h"

#include <string.h>

/* Weights that are in memory at once. */
#define PART 64

metaq_status layer_keep(metaq_reader *reader, size_t tensor, float *out) {
    const metaq_status status = metaq_select(reader, tensor);
    return status == METAQ_OK ? metaq_read_all(reader, METAQ_FLOATS, out) : status;
}

/* Adds a channel of the input times one weight, which stands in a row and a column of the kernel. */
static void add_weighed(const layer_window *of, float weight, int row, int column, const float *in, float *out) {
    int y, x;
    for (y = 0; y < of->out_height; y++, out += of->out_width) {
        const int from = y * of->stride[0] + row * of->dilation[0] - of->padding[0];
        if (from < 0 || from >= of->height) continue;
        for (x = 0; x < of->out_width; x++) {
            const int at = x * of->stride[1] + column * of->dilation[1] - of->padding[1];
            if (at >= 0 && at < of->width) out[x] += weight * in[from * of->width + at];
        }
    }
}

metaq_status layer_weigh(metaq_reader *reader, size_t tensor, const layer_window *of, const float *in, float *out) {
    const int inputs = of->channels / of->groups, outputs = of->outputs / of->groups;
    const int size = of->height * of->width, out_size = of->out_height * of->out_width;
    float part[PART];
    metaq_span span;
    metaq_status status = metaq_select(reader, tensor);
    memset(out, 0, (size_t)of->outputs * (size_t)out_size * sizeof *out);
    while (status == METAQ_OK && (status = metaq_read(reader, METAQ_FLOATS, part, PART, &span)) == METAQ_OK) {
        size_t i;
        for (i = 0; i < span.count; i++) {
            int place = (int)(span.start + i * span.stride), row, column, channel;
            /* Most weights of a small file are 0. */
            if (part[i] == 0) continue;
            column = place % of->kernel[1];
            place /= of->kernel[1];
            row = place % of->kernel[0];
            place /= of->kernel[0];
            channel = place % inputs;
            place /= inputs; /* is the output now */
            channel += place / outputs * inputs;
            add_weighed(of, part[i], row, column, in + channel * size, out + place * out_size);
        }
    }
    return status == METAQ_END ? METAQ_OK : status;
}

/* The part of the input, along one axis, that a place of the output looks at. */
static void look(const layer_window *of, int axis, int place, int *first, int *end) {
    *first = place * of->stride[axis] - of->padding[axis];
    *end = *first + (of->kernel[axis] - 1) * of->dilation[axis] + 1;
}

static int later(int a, int b) { return a > b ? a : b; }
static int earlier(int a, int b) { return a < b ? a : b; }

static float largest(const layer_window *of, const float *in, int y, int x) {
    int top, bottom, left, right, row, column;
    float found = -LAYER_INFINITY;
    look(of, 0, y, &top, &bottom);
    look(of, 1, x, &left, &right);
    for (row = top; row < bottom; row += of->dilation[0]) {
        if (row < 0 || row >= of->height) continue;
        for (column = left; column < right; column += of->dilation[1]) {
            if (column < 0 || column >= of->width) continue;
            if (in[row * of->width + column] > found) found = in[row * of->width + column];
        }
    }
    return found;
}

static float mean(const layer_window *of, const float *in, int y, int x) {
    int top, bottom, left, right, row, column, count;
    float sum = 0;
    look(of, 0, y, &top, &bottom);
    look(of, 1, x, &left, &right);
    /* A window may end outside of the padding, which counts less then. */
    count = (earlier(bottom, of->height + of->padding[0]) - top) * (earlier(right, of->width + of->padding[1]) - left);
    top = later(top, 0);
    left = later(left, 0);
    bottom = earlier(bottom, of->height);
    right = earlier(right, of->width);
    if (!of->counts_padding) count = (bottom - top) * (right - left);
    for (row = top; row < bottom; row++) {
        for (column = left; column < right; column++) sum += in[row * of->width + column];
    }
    return sum / (float)count;
}

static void pool(const layer_window *of, const float *in, float *out,
                 float (*found)(const layer_window *, const float *, int, int)) {
    int channel, y, x;
    for (channel = 0; channel < of->channels; channel++, in += of->height * of->width) {
        for (y = 0; y < of->out_height; y++) {
            for (x = 0; x < of->out_width; x++) *out++ = found(of, in, y, x);
        }
    }
}

void layer_maximum(const layer_window *of, const float *in, float *out) { pool(of, in, out, largest); }

void layer_average(const layer_window *of, const float *in, float *out) { pool(of, in, out, mean); }

void layer_bias(const float *in, float *out, const float *bias, int channels, int size) {
    int channel, i;
    for (channel = 0; channel < channels; channel++) {
        for (i = 0; i < size; i++) *out++ = *in++ + bias[channel];
    }
}

void layer_normalise(const float *in, float *out, const float *factors, const float *bias, const float *mean,
                     const float *variance, float epsilon, int channels, int size) {
    int channel, i;
    for (channel = 0; channel < channels; channel++) {
        const float factor = (factors ? factors[channel] : 1) / sqrtf(variance[channel] + epsilon);
        const float shift = bias ? bias[channel] : 0;
        for (i = 0; i < size; i++) *out++ = (*in++ - mean[channel]) * factor + shift;
    }
}

void layer_change(const float *in, float *out, const float *factors, const float *shifts, int channels, int size) {
    int channel, i;
    for (channel = 0; channel < channels; channel++) {
        const float factor = factors ? factors[channel] : 1, shift = shifts ? shifts[channel] : 0;
        for (i = 0; i < size; i++) *out++ = *in++ * factor + shift;
    }
}

void layer_pad(const layer_window *of, const float *in, float *out, int first) {
    const int out_size = of->out_height * of->out_width;
    int channel, y;
    memset(out, 0, (size_t)of->outputs * (size_t)out_size * sizeof *out);
    for (channel = 0; channel < of->channels; channel++) {
        float *to = out + (first + channel) * out_size + of->padding[0] * of->out_width + of->padding[1];
        for (y = 0; y < of->height; y++, in += of->width, to += of->out_width)
            memcpy(to, in, (size_t)of->width * sizeof *to);
    }
}

void layer_add(const float *in, const float *other, float *out, int count) {
    int i;
    for (i = 0; i < count; i++) out[i] = in[i] + other[i];
}

void layer_clamp(const float *in, float *out, int count, float low, float high) {
    int i;
    for (i = 0; i < count; i++) {
        const float raised = in[i] < low ? low : in[i];
        out[i] = raised > high ? high : raised;
    }
}

void layer_tanh(const float *in, float *out, int count) {
    int i;
    for (i = 0; i < count; i++) out[i] = tanhf(in[i]);
}

void layer_sigmoid(const float *in, float *out, int count) {
    int i;
    for (i = 0; i < count; i++) out[i] = 1 / (1 + expf(-in[i]));
}

void layer_softmax(const float *in, float *out, int groups, int channels, int size) {
    int group, i, channel;
    for (group = 0; group < groups; group++, in += channels * size, out += channels * size) {
        for (i = 0; i < size; i++) {
            float most = in[i], sum = 0;
            for (channel = 1; channel < channels; channel++) {
                if (in[channel * size + i] > most) most = in[channel * size + i];
            }
            for (channel = 0; channel < channels; channel++) {
                out[channel * size + i] = expf(in[channel * size + i] - most);
                sum += out[channel * size + i];
            }
            for (channel = 0; channel < channels; channel++) out[channel * size + i] /= sum;
        }
    }
}
