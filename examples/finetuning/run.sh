#!/bin/sh
# A net learns one task; then its weights begin another one, of which there are few records. The second task is also
# learned from fresh weights, for comparison. Run it from the root of the checkout; PEERS=4 takes four peers.
set -e
here=examples/finetuning
train() { gossip-caffe train --peers "${PEERS:-2}" "$@"; }

train --solver $here/first_solver.prototxt
model=$(ls -t $here/first_iter_*.caffemodel | head -n 1)
train --solver $here/second_solver.prototxt --log $here/tuned.log --weights "$model"
train --solver $here/second_solver.prototxt --log $here/fresh.log
python examples/draw.py --to $here/picture.png --title "Digits 5 to 9 from 40 records, ${PEERS:-2} peers" \
	"from the weights of digits 0 to 4=$here/tuned.log" "from fresh weights=$here/fresh.log"
