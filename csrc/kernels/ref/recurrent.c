/* Convolutions and recurrences over a sequence, as ops.h states them. */
#include "kernels/tables.h"

static void convolve_channel(const air_convolve_args *a, int64_t c)
{
    float window[AIR_CONVOLVE_TAPS]; /* the oldest first; the last is the row's own */
    int64_t kept = a->taps - 1;
    for (int64_t j = 0; j < kept; j++) window[j] = a->before ? a->before[j * a->window_stride + c] : 0.0f;
    for (int64_t r = 0; r < a->rows; r++) {
        float sum = a->bias ? a->bias[c] : 0.0f;
        window[kept] = a->x[r * a->x_stride + c];
        for (int64_t j = 0; j < a->taps; j++) sum += a->weight[c * a->taps + j] * window[j];
        a->y[r * a->y_stride + c] = sum;
        for (int64_t j = 0; j < kept; j++) window[j] = window[j + 1];
    }
    for (int64_t j = 0; j < kept; j++) a->after[j * a->window_stride + c] = window[j];
}

static void convolve(const air_convolve_args *a)
{
    for (int64_t c = 0; c < a->channels; c++) convolve_channel(a, c);
}

/* One column of S: what is written into it depends on no other. */
static void scan_column(const air_scan_args *a, int64_t c)
{
    float *s = a->after + c / AIR_STATE_TILE * a->key_dim * AIR_STATE_TILE + c % AIR_STATE_TILE;
    for (int64_t r = 0; r < a->rows; r++) {
        const float *k = a->k + r * a->k_stride, *q = a->q + r * a->q_stride;
        float v = a->v[r * a->v_stride + c], known = 0.0f, out = 0.0f;
        for (int64_t i = 0; i < a->key_dim; i++) s[i * AIR_STATE_TILE] *= a->decay[r];
        for (int64_t i = 0; a->delta && i < a->key_dim; i++) known += s[i * AIR_STATE_TILE] * k[i];
        float u = a->write[r] * (v - known);
        for (int64_t i = 0; i < a->key_dim; i++) {
            s[i * AIR_STATE_TILE] += k[i] * u;
            out += s[i * AIR_STATE_TILE] * q[i];
        }
        a->out[r * a->out_stride + c] = out + a->skip * v;
    }
}

static void scan(const air_scan_args *a)
{
    int64_t floats = a->key_dim * air_state_padded(a->value_dim);
    for (int64_t i = 0; i < floats; i++) a->after[i] = a->before ? a->before[i] : 0.0f;
    for (int64_t c = 0; c < a->value_dim; c++) scan_column(a, c);
}

const air_ops air__ref_recurrent = {.convolve = convolve, .scan = scan};
