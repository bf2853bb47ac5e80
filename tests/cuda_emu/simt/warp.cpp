/* Warp collectives: lanes that name the same mask meet, and go on when all of them are there. */
#include "simt/block.h"
#include "simt/sanitizer.h"

namespace air::emu {

namespace {

Meeting &meeting_of(unsigned mask, const char *file, int line)
{
    Warp &warp = engine->warp[engine->current / LANES];
    for (int i = 0; i < warp.meetings; i++)
        if (warp.meeting[static_cast<size_t>(i)].mask == mask) return warp.meeting[static_cast<size_t>(i)];
    if (warp.meetings == MAX_MASKS) device_trap("too many different masks in one warp", file, line);
    Meeting &made = warp.meeting[static_cast<size_t>(warp.meetings++)];
    made.mask = mask;
    made.arrived = made.generation = 0;
    return made;
}

Meeting &arrive(unsigned mask, Collective kind, const char *file, int line)
{
    Thread &thread = engine->thread[engine->current];
    if (!(mask >> lane() & 1)) device_trap("warp collective: the calling lane is not in its mask", file, line);
    Meeting &meeting = meeting_of(mask, file, line);
    if (!meeting.arrived) {
        meeting.kind = kind;
        meeting.file = file;
        meeting.line = line;
    } else if (meeting.kind != kind || meeting.line != line) {
        device_trap("divergent warp collective: lanes at different calls", file, line);
    }
    meeting.arrived |= 1u << lane();
    thread.meeting = &meeting;
    thread.file = file;
    thread.line = line;
    engine->counted.collectives++;
    return meeting;
}

/* Meets under mask; put(generation, lane) stores what the lane brings. The generation to read from. */
template <class Put>
unsigned meet(Meeting &meeting, Put put)
{
    unsigned generation = meeting.generation & 1;
    put(generation, lane());
    /* Shuffles and votes order no memory; __syncwarp does. */
    bool orders = meeting.kind == Collective::barrier;
    void *order = &meeting.values[generation];
    if (orders) sanitizer::release(order);
    if (meeting.arrived == meeting.mask) {
        meeting.arrived = 0;
        meeting.generation++;
        make_ready(engine->current / LANES, meeting.mask & ~(1u << lane()));
    } else {
        wait_ready();
    }
    if (orders) sanitizer::acquire(order);
    return generation;
}

}  // namespace

const uint64_t *warp_exchange(unsigned mask, uint64_t value, Collective kind, const char *file, int line)
{
    Meeting &meeting = arrive(mask, kind, file, line);
    return meeting.values[meet(meeting, [&](unsigned generation, int at) { meeting.values[generation][at] = value; })];
}

const unsigned char *warp_exchange_wide(unsigned mask, const void *value, size_t bytes, Collective kind, const char *file, int line)
{
    Meeting &meeting = arrive(mask, kind, file, line);
    auto put = [&](unsigned generation, int at) { sanitizer::quiet_copy(meeting.wide[generation][at], value, bytes); };
    return meeting.wide[meet(meeting, put)][0];
}

}  // namespace air::emu
