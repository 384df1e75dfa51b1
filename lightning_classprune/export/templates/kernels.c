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

/* kernel: as_byte */
/* The nearest whole number, the even one of two, and its zero; within a byte. */
static uint8_t as_byte(float number, int32_t zero)
{
    const float near = number > 1000.0f ? 1000.0f : number < -1000.0f ? -1000.0f : number;
    int32_t whole = (int32_t)near;
    const float rest = near - (float)whole;
    if (rest > 0.5f || (rest == 0.5f && whole % 2 != 0)) {
        ++whole;
    }
    if (rest < -0.5f || (rest == -0.5f && whole % 2 != 0)) {
        --whole;
    }
    whole += zero;
    return (uint8_t)(whole < 0 ? 0 : whole > 255 ? 255 : whole);
}

/* kernel: again */
/* Bytes of one scale and zero become those of others, in place. */
static void again(uint8_t *bytes, int32_t count, int32_t zero, float ratio, int32_t new_zero)
{
    int32_t i;
    for (i = 0; i < count; ++i) {
        bytes[i] = as_byte((float)((int32_t)bytes[i] - zero) * ratio, new_zero);
    }
}

/* kernel: spread_bytes */
/* Adds one weight's part to a plane of sums: its products with all the places that it meets. */
static void spread_bytes(const uint8_t *in, int32_t *sums, int32_t weight, int32_t zero, int32_t in_h, int32_t in_w,
                         int32_t out_h, int32_t out_w, int32_t stride_y, int32_t stride_x, int32_t shift_y,
                         int32_t shift_x)
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
            const uint8_t *row = in + from * in_w;
            int32_t *into = sums + y * out_w;
            for (x = first; x < last; ++x) {
                into[x] += weight * ((int32_t)row[x * stride_x + shift_x] - zero);
            }
        }
    }
}

/* kernel: give */
/* A plane of sums leaves as bytes, or as scores where there are any. */
static void give(const int32_t *sums, int32_t count, float multiplier, int32_t zero, int relu, uint8_t *out,
                 float *scores)
{
    int32_t i;
    for (i = 0; i < count; ++i) {
        const int32_t sum = relu && sums[i] < 0 ? 0 : sums[i];
        if (scores) {
            scores[i] = (float)sum * multiplier;
        } else {
            out[i] = as_byte((float)sum * multiplier, zero);
        }
    }
}

/* kernel: bytes_dense */
static void bytes_dense(const uint8_t *in, uint8_t *out, float *scores, int32_t *sums, int32_t zero,
                        int32_t zero_out, const int8_t *weights, const int32_t *bias, const float *multiplier,
                        int32_t in_h, int32_t in_w, int32_t outputs, int32_t out_h, int32_t out_w, int32_t inputs,
                        int32_t of_group, int32_t high, int32_t wide, int32_t stride_y, int32_t stride_x,
                        int32_t pad_y, int32_t pad_x, int32_t step_y, int32_t step_x, int relu)
{
    const int32_t plane = out_h * out_w;
    int32_t o, c, ky, kx, i;
    for (o = 0; o < outputs; ++o) {
        const uint8_t *from = in + (o / of_group) * inputs * in_h * in_w;
        for (i = 0; i < plane; ++i) {
            sums[i] = bias[o];
        }
        for (c = 0; c < inputs; ++c) {
            for (ky = 0; ky < high; ++ky) {
                for (kx = 0; kx < wide; ++kx) {
                    spread_bytes(from + c * in_h * in_w, sums, *weights++, zero, in_h, in_w, out_h, out_w, stride_y,
                                 stride_x, ky * step_y - pad_y, kx * step_x - pad_x);
                }
            }
        }
        give(sums, plane, multiplier[o], zero_out, relu, out + o * plane, scores ? scores + o * plane : scores);
    }
}

/* kernel: bytes_sparse */
static void bytes_sparse(const uint8_t *in, uint8_t *out, float *scores, int32_t *sums, int32_t zero,
                         int32_t zero_out, const uint16_t *counts, const uint8_t *gaps, const int8_t *values,
                         const int32_t *bias, const float *multiplier, int32_t in_h, int32_t in_w, int32_t outputs,
                         int32_t out_h, int32_t out_w, int32_t inputs, int32_t of_group, int32_t high, int32_t wide,
                         int32_t stride_y, int32_t stride_x, int32_t pad_y, int32_t pad_x, int32_t step_y,
                         int32_t step_x, int relu)
{
    const int32_t plane = out_h * out_w;
    int32_t o, n, i;
    for (o = 0; o < outputs; ++o) {
        const uint8_t *from = in + (o / of_group) * inputs * in_h * in_w;
        int32_t at = 0;
        for (i = 0; i < plane; ++i) {
            sums[i] = bias[o];
        }
        for (n = 0; n < counts[o]; ++n) {
            at += *gaps++;
            spread_bytes(from + at / (high * wide) * in_h * in_w, sums, *values++, zero, in_h, in_w, out_h, out_w,
                         stride_y, stride_x, at / wide % high * step_y - pad_y, at % wide * step_x - pad_x);
        }
        give(sums, plane, multiplier[o], zero_out, relu, out + o * plane, scores ? scores + o * plane : scores);
    }
}

/* kernel: max_pool_bytes */
static void max_pool_bytes(const uint8_t *in, uint8_t *out, int32_t least, int32_t channels, int32_t in_h,
                           int32_t in_w, int32_t out_h, int32_t out_w, int32_t high, int32_t wide, int32_t stride_y,
                           int32_t stride_x, int32_t pad_y, int32_t pad_x)
{
    int32_t c, y, x, v, u;
    for (c = 0; c < channels; ++c) {
        for (y = 0; y < out_h; ++y) {
            for (x = 0; x < out_w; ++x) {
                int32_t largest = least;
                for (v = y * stride_y - pad_y; v < y * stride_y - pad_y + high; ++v) {
                    for (u = x * stride_x - pad_x; u < x * stride_x - pad_x + wide; ++u) {
                        if (v >= 0 && v < in_h && u >= 0 && u < in_w && in[v * in_w + u] > largest) {
                            largest = in[v * in_w + u];
                        }
                    }
                }
                *out++ = (uint8_t)largest;
            }
        }
        in += in_h * in_w;
    }
}

/* kernel: average_pool_bytes */
static void average_pool_bytes(const uint8_t *in, uint8_t *out, int32_t zero, float ratio, int32_t zero_out, int relu,
                               int32_t channels, int32_t in_h, int32_t in_w, int32_t out_h, int32_t out_w,
                               int32_t high, int32_t wide, int32_t stride_y, int32_t stride_x)
{
    int32_t c, y, x, v, u;
    for (c = 0; c < channels; ++c) {
        for (y = 0; y < out_h; ++y) {
            for (x = 0; x < out_w; ++x) {
                int32_t sum = 0;
                for (v = y * stride_y; v < y * stride_y + high; ++v) {
                    for (u = x * stride_x; u < x * stride_x + wide; ++u) {
                        sum += (int32_t)in[v * in_w + u] - zero;
                    }
                }
                sum = relu && sum < 0 ? 0 : sum;
                *out++ = as_byte((float)sum / (float)(high * wide) * ratio, zero_out);
            }
        }
        in += in_h * in_w;
    }
}
