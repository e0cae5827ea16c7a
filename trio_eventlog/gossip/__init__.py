"""Who is there: the SWIM failure detector with Lifeguard's corrections, and the Serf layer over it. No I/O."""
