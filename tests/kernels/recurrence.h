/* recurrence.h: the part of test_functions.c, which includes it, that is about convolutions and recurrent states. */
#ifndef AIR_TESTS_RECURRENCE_H
#define AIR_TESTS_RECURRENCE_H

/* Rows in two calls, the second of which goes on from where the first left the window, in its own memory. */
static void convolve_case(const air_ops *ops, int64_t channels, int64_t taps, int64_t rows, int begins, int biased)
{
    int64_t kept = taps - 1, first = rows / 3;
    float *x = new_floats(rows * channels, 1), *w = new_floats(channels * taps, 1), *bias = new_floats(channels, 1);
    float *before = new_floats(kept * channels, 1), *after = new_floats(kept * channels, 1), *y = new_floats(rows * channels, 1);
    double norm = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < channels; c++) {
            double sum = biased ? (double)bias[c] : 0;
            for (int64_t j = 0; j < taps; j++) {
                int64_t at = r - kept + j;
                double seen = at >= 0 ? (double)x[at * channels + c] : begins ? 0 : (double)before[(kept + at) * channels + c];
                sum += (double)w[c * taps + j] * seen;
                norm += (double)w[c * taps + j] * (double)w[c * taps + j] * seen * seen; /* of what is added up: sums may be differences */
            }
            want[r * channels + c] = sum;
            norm += biased ? (double)bias[c] * (double)bias[c] : 0;
        }
    air_convolve_args a = {.x = x, .y = y, .rows = first, .channels = channels, .x_stride = channels, .y_stride = channels, .weight = w,
                           .bias = biased ? bias : NULL, .taps = taps, .before = begins ? NULL : before, .after = after,
                           .window_stride = channels};
    ops->convolve(&a);
    a.x += first * channels, a.y += first * channels, a.rows = rows - first, a.before = after;
    ops->convolve(&a);
    check_error(ops->name, "convolve", want, y, rows * channels, norm, 1e-13);
    for (int64_t j = 0; j < kept; j++)
        for (int64_t c = 0; c < channels; c++) {
            int64_t at = rows - kept + j;
            float seen = at >= 0 ? x[at * channels + c] : begins ? 0 : before[(kept + at) * channels + c];
            CHECK(after[j * channels + c] == seen);
        }
    CHECK(guard_intact());
    guard_free_all();
}

TEST(a_convolution_goes_on_over_calls)
{
    FOR_EACH_TIER (ops, convolve)
        for (int64_t channels = 1; channels < 70; channels += 1 + channels / 3)
            for (int64_t taps = 2; taps <= AIR_CONVOLVE_TAPS; taps++)
                for (int64_t rows = 1; rows < 20; rows += 1 + rows / 2)
                    convolve_case(ops, channels, taps, rows, rows % 2 != 0, taps % 2 != 0);
}

typedef struct scanned { int64_t key_dim, value_dim, rows; int delta, begins; } scanned;

enum { SCAN_DIM = 140, SCAN_ROWS = 24 };
static double scan_state[SCAN_DIM][SCAN_DIM];

static int64_t place_in_state(const scanned *s, int64_t i, int64_t c) { return c / 16 * 16 * s->key_dim + i * 16 + c % 16; }

/* What one row does, in double. Returns the squares of what is added up, as results may be differences. */
static double scan_row(const scanned *s, const air_scan_args *a, int64_t r, double *out)
{
    double squares = 0;
    for (int64_t c = 0; c < s->value_dim; c++) {
        double known = 0, v = (double)a->v[r * a->v_stride + c];
        for (int64_t i = 0; i < s->key_dim; i++) {
            scan_state[i][c] *= (double)a->decay[r];
            known += scan_state[i][c] * (double)a->k[r * a->k_stride + i];
        }
        double u = (double)a->write[r] * (s->delta ? v - known : v), parts = v * v + known * known;
        out[c] = (double)a->skip * v;
        squares += out[c] * out[c];
        for (int64_t i = 0; i < s->key_dim; i++) {
            scan_state[i][c] += (double)a->k[r * a->k_stride + i] * u;
            double q = (double)a->q[r * a->q_stride + i], k = (double)a->k[r * a->k_stride + i] * (double)a->write[r];
            out[c] += scan_state[i][c] * q;
            squares += (scan_state[i][c] * scan_state[i][c] + k * k * parts) * q * q;
        }
    }
    return squares;
}

/* Keys of a delta rule have the length 1: longer ones make errors grow from row to row. */
static void unit_rows(float *x, int64_t rows, int64_t stride, int64_t n)
{
    for (int64_t r = 0; r < rows; r++) {
        double squares = 0;
        for (int64_t i = 0; i < n; i++) squares += (double)x[r * stride + i] * (double)x[r * stride + i];
        for (int64_t i = 0; i < n; i++) x[r * stride + i] = (float)((double)x[r * stride + i] / sqrt(squares));
    }
}

/* Some rows in a call, the others in place in another: the same bits as in one, which are those wanted. */
static void scan_case(const air_ops *ops, scanned s)
{
    int64_t floats = s.key_dim * air_state_padded(s.value_dim), first = s.rows / 2, k = s.key_dim + 3, v = s.value_dim + 5;
    float size = s.delta ? 1 / sqrtf((float)s.key_dim) : 1, *keys = new_floats(s.rows * k, size);
    float *before = new_floats(floats, 1), *after = new_floats(floats, 1), *whole = new_floats(floats, 1);
    float *decay = new_floats(s.rows, 1), *write = new_floats(s.rows, 1), *out = new_floats(s.rows * v, 1), *once = new_floats(s.rows * v, 1);
    for (int64_t r = 0; r < s.rows; r++) decay[r] = 1 / (1 + expf(-decay[r])), write[r] = 1 / (1 + expf(-write[r]));
    for (int64_t i = 0; i < floats; i++) before[i] = i / 16 / s.key_dim * 16 + i % 16 < s.value_dim ? before[i] : 0;
    for (int64_t i = 0; i < s.key_dim; i++)
        for (int64_t c = 0; c < s.value_dim; c++) scan_state[i][c] = s.begins ? 0 : (double)before[place_in_state(&s, i, c)];
    air_scan_args a = {.q = new_floats(s.rows * k, size), .k = keys, .v = new_floats(s.rows * v, 1),
                       .q_stride = k, .k_stride = k, .v_stride = v, .decay = decay, .write = write, .skip = s.delta ? 0 : 0.5f,
                       .delta = s.delta, .out = once, .out_stride = v, .before = s.begins ? NULL : before, .after = whole,
                       .rows = s.rows, .key_dim = s.key_dim, .value_dim = s.value_dim};
    if (s.delta) unit_rows(keys, s.rows, k, s.key_dim);
    ops->scan(&a);
    double error = 0, norm = 0, row[SCAN_DIM];
    for (int64_t r = 0; r < s.rows; r++) {
        norm += scan_row(&s, &a, r, row);
        for (int64_t c = 0; c < s.value_dim; c++) {
            double d = (double)once[r * v + c] - row[c];
            error += d * d;
        }
    }
    if (!(error <= 1e-12 * norm)) printf("  %s scan of %lld x %lld: NMSE %.3g\n", ops->name, (long long)s.key_dim, (long long)s.value_dim, error / norm);
    CHECK(error <= 1e-12 * norm);
    a.out = out, a.after = after, a.rows = first;
    if (first) ops->scan(&a), a.before = after;
    a.q += first * k, a.k += first * k, a.v += first * v, a.decay += first, a.write += first, a.out += first * v, a.rows = s.rows - first;
    ops->scan(&a);
    CHECK(!memcmp(after, whole, (size_t)floats * sizeof *after));
    for (int64_t r = 0; r < s.rows; r++) CHECK(!memcmp(out + r * v, once + r * v, (size_t)s.value_dim * sizeof *out));
    for (int64_t i = 0; i < s.key_dim; i++)
        for (int64_t c = 0; c < s.value_dim; c++)
            CHECK(fabs((double)after[place_in_state(&s, i, c)] - scan_state[i][c]) < 1e-4 * (1 + fabs(scan_state[i][c])));
    CHECK(guard_intact());
    guard_free_all();
}

TEST(a_recurrence_has_the_same_bits_however_it_is_cut)
{
    static const int64_t dims[][2] = {{128, 128}, {128, 64}, {16, 32}, {7, 5}, {1, 1}, {33, 17}, {64, 80}, {2, 130}};
    FOR_EACH_TIER (ops, scan)
        for (size_t d = 0; d < AIR_COUNT(dims); d++)
            for (int64_t rows = 1; rows < SCAN_ROWS; rows += 1 + rows)
                for (int which = 0; which < 4; which++)
                    scan_case(ops, (scanned){dims[d][0], dims[d][1], rows, which & 1, which & 2});
}

#endif
