/* kernel: spread */
/* Adds one weight's part to a plane of outputs: its products with all the places that it meets. */
static void spread(const float *in, float *out, float weight, int32_t in_h, int32_t in_w, int32_t out_h,
                   int32_t out_w, int32_t stride_y, int32_t stride_x, int32_t shift_y, int32_t shift_x)
{
    int32_t y, x, first = 0, last = out_w;
    while (first < out_w && first * stride_x + shift_x < 0) {
        ++first;
    }
    while (last > first && (last - 1) * stride_x + shift_x >= in_w) {
        --last;
    }
    for (y = 0; y < out_h; ++y) {
        const int32_t from = y * stride_y + shift_y;
        if (from >= 0 && from < in_h) {
            const float *row = in + from * in_w;
            float *sums = out + y * out_w;
            for (x = first; x < last; ++x) {
                sums[x] += weight * row[x * stride_x + shift_x];
            }
        }
    }
}

/* kernel: conv_dense */
static void conv_dense(const float *in, float *out, const float *weights, const float *bias, int32_t in_h,
                       int32_t in_w, int32_t outputs, int32_t out_h, int32_t out_w, int32_t inputs, int32_t of_group,
                       int32_t high, int32_t wide, int32_t stride_y, int32_t stride_x, int32_t pad_y, int32_t pad_x,
                       int32_t step_y, int32_t step_x, int relu)
{
    int32_t o, c, ky, kx, i;
    for (o = 0; o < outputs; ++o) {
        const float *plane = in + (o / of_group) * inputs * in_h * in_w;
        for (i = 0; i < out_h * out_w; ++i) {
            out[i] = bias[o];
        }
        for (c = 0; c < inputs; ++c) {
            for (ky = 0; ky < high; ++ky) {
                for (kx = 0; kx < wide; ++kx) {
                    spread(plane + c * in_h * in_w, out, *weights++, in_h, in_w, out_h, out_w, stride_y, stride_x,
                           ky * step_y - pad_y, kx * step_x - pad_x);
                }
            }
        }
        for (i = 0; relu && i < out_h * out_w; ++i) {
            out[i] = out[i] > 0.0f ? out[i] : 0.0f;
        }
        out += out_h * out_w;
    }
}

/* kernel: conv_sparse */
static void conv_sparse(const float *in, float *out, const uint16_t *counts, const uint8_t *gaps,
                        const float *values, const float *bias, int32_t in_h, int32_t in_w, int32_t outputs,
                        int32_t out_h, int32_t out_w, int32_t inputs, int32_t of_group, int32_t high, int32_t wide,
                        int32_t stride_y, int32_t stride_x, int32_t pad_y, int32_t pad_x, int32_t step_y,
                        int32_t step_x, int relu)
{
    int32_t o, n, i;
    for (o = 0; o < outputs; ++o) {
        const float *plane = in + (o / of_group) * inputs * in_h * in_w;
        int32_t at = 0;
        for (i = 0; i < out_h * out_w; ++i) {
            out[i] = bias[o];
        }
        for (n = 0; n < counts[o]; ++n) {
            at += *gaps++;
            spread(plane + at / (high * wide) * in_h * in_w, out, *values++, in_h, in_w, out_h, out_w, stride_y,
                   stride_x, at / wide % high * step_y - pad_y, at % wide * step_x - pad_x);
        }
        for (i = 0; relu && i < out_h * out_w; ++i) {
            out[i] = out[i] > 0.0f ? out[i] : 0.0f;
        }
        out += out_h * out_w;
    }
}

/* kernel: linear_dense */
static void linear_dense(const float *in, float *out, const float *weights, const float *bias, int32_t inputs,
                         int32_t outputs, int relu)
{
    int32_t o, c;
    for (o = 0; o < outputs; ++o) {
        float sum = bias[o];
        for (c = 0; c < inputs; ++c) {
            sum += *weights++ * in[c];
        }
        out[o] = relu && sum < 0.0f ? 0.0f : sum;
    }
}

/* kernel: linear_sparse */
static void linear_sparse(const float *in, float *out, const uint16_t *counts, const uint8_t *gaps,
                          const float *values, const float *bias, int32_t outputs, int relu)
{
    int32_t o, n;
    for (o = 0; o < outputs; ++o) {
        float sum = bias[o];
        int32_t at = 0;
        for (n = 0; n < counts[o]; ++n) {
            at += *gaps++;
            sum += *values++ * in[at];
        }
        out[o] = relu && sum < 0.0f ? 0.0f : sum;
    }
}

/* kernel: max_pool */
static void max_pool(const float *in, float *out, int32_t channels, int32_t in_h, int32_t in_w, int32_t out_h,
                     int32_t out_w, int32_t high, int32_t wide, int32_t stride_y, int32_t stride_x, int32_t pad_y,
                     int32_t pad_x)
{
    int32_t c, y, x, v, u;
    for (c = 0; c < channels; ++c) {
        for (y = 0; y < out_h; ++y) {
            for (x = 0; x < out_w; ++x) {
                int empty = 1;
                float largest = 0.0f;
                for (v = y * stride_y - pad_y; v < y * stride_y - pad_y + high; ++v) {
                    for (u = x * stride_x - pad_x; u < x * stride_x - pad_x + wide; ++u) {
                        if (v >= 0 && v < in_h && u >= 0 && u < in_w && (empty || in[v * in_w + u] > largest)) {
                            largest = in[v * in_w + u];
                            empty = 0;
                        }
                    }
                }
                *out++ = largest;
            }
        }
        in += in_h * in_w;
    }
}

/* kernel: average_pool */
static void average_pool(const float *in, float *out, int32_t channels, int32_t in_h, int32_t in_w, int32_t out_h,
                         int32_t out_w, int32_t high, int32_t wide, int32_t stride_y, int32_t stride_x)
{
    int32_t c, y, x, v, u;
    for (c = 0; c < channels; ++c) {
        for (y = 0; y < out_h; ++y) {
            for (x = 0; x < out_w; ++x) {
                float sum = 0.0f;
                for (v = y * stride_y; v < y * stride_y + high; ++v) {
                    for (u = x * stride_x; u < x * stride_x + wide; ++u) {
                        sum += in[v * in_w + u];
                    }
                }
                *out++ = sum / (float)(high * wide);
            }
        }
        in += in_h * in_w;
    }
}
