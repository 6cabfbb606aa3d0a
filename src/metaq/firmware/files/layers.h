/* Layers of a network, of one input at a time, in float. */
#ifndef LAYERS_H
#define LAYERS_H

#include <math.h>

#include "metaq.h"

#define LAYER_INFINITY HUGE_VALF

/* What a convolution or a pooling goes over: rows, then columns. A linear layer is a convolution of height and width 1,
   and one of sequences has height 1. */
typedef struct layer_window {
    int channels, height, width;
    int outputs, out_height, out_width;
    int groups;
    int kernel[2], stride[2], padding[2], dilation[2];
    int counts_padding; /* whether a mean is over the zeros of the padding too */
} layer_window;

/* Elements of a tensor of the file, in C order. */
metaq_status layer_keep(metaq_reader *reader, size_t tensor, float *out);

/* A convolution or linear layer without its bias. The weights are added to the outputs as they come out of the file, in
   whatever order it has them: nothing but a few of them is ever in memory. */
metaq_status layer_weigh(metaq_reader *reader, size_t tensor, const layer_window *of, const float *in, float *out);

/* Puts zeros around the places, and `first` channels of them before the others. */
void layer_pad(const layer_window *of, const float *in, float *out, int first);

/* What follows may write where it reads, but for poolings with padding. `size` are the elements of a channel. */
void layer_maximum(const layer_window *of, const float *in, float *out);
void layer_average(const layer_window *of, const float *in, float *out);
void layer_bias(const float *in, float *out, const float *bias, int channels, int size);
/* The factors and the bias may be NULL. */
void layer_normalise(const float *in, float *out, const float *factors, const float *bias, const float *mean,
                     const float *variance, float epsilon, int channels, int size);
/* The factors or the shifts may be NULL. */
void layer_change(const float *in, float *out, const float *factors, const float *shifts, int channels, int size);
void layer_add(const float *in, const float *other, float *out, int count);
void layer_clamp(const float *in, float *out, int count, float low, float high);
void layer_tanh(const float *in, float *out, int count);
void layer_sigmoid(const float *in, float *out, int count);
/* Over `channels` elements that lie `size` apart, for `groups` groups of them. */
void layer_softmax(const float *in, float *out, int groups, int channels, int size);

#endif
