/* What the tests of plans with devices share: a request of one with a device, and what a plan takes of both memories. */
#ifndef AIR_TEST_PLAN_DEVICE_H
#define AIR_TEST_PLAN_DEVICE_H

#include "memory_fixture.h"

static inline air_plan_request device_request(const fixture *f, uint64_t ram, uint64_t vram)
{
    air_plan_request r = fixture_request(f, ram);
    r.device = (air_device_request){.budget = vram, .fixed = 100000};
    r.bandwidths.devices[0].link = 4e9;
    r.bandwidths.devices[0].memory = 1e11;
    return r;
}

static inline uint64_t device_used(const air_plan *p)
{
    return p->device_fixed + p->device_state_bytes + p->device_shuttle_bytes + p->device_activation_bytes_full + p->device_ring_bytes +
           p->device_pin_bytes;
}

static inline uint64_t host_used(const air_plan *p)
{
    return p->fixed + p->gather_bytes + p->staging_bytes + p->logit_bytes + p->activation_bytes_full + p->ring_bytes + p->pin_bytes;
}

static inline int near(double a, double b) { return a > 0.999 * b && a < 1.001 * b; }

#endif
