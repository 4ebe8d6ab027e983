"""Tests of the judge: run with `python -m unittest` in this folder (needs the sprites, not a checkpoint)."""
import random
import unittest
from dataclasses import replace

import numpy as np
from scipy import ndimage

import judge
import world


def rendered(scene: world.Scene) -> np.ndarray:
    return world.render(scene)[0]


class OnRenderedScenes(unittest.TestCase):
    def setUp(self):
        rng = random.Random("attnmap judge test")
        self.scenes = [world.random_scene(rng) for _ in range(100)]
        self.pairs = [s for s in self.scenes if s.relation]

    def test_finds_everything_in_rendered_scenes(self):
        self.assertEqual(sum(judge.judge(rendered(s), s).right for s in self.scenes), len(self.scenes))

    def test_still_does_when_blurred_and_noisy(self):
        noise = np.random.default_rng(0)
        for s in self.scenes:
            image = ndimage.gaussian_filter(rendered(s), (1, 1, 0)) + noise.normal(0, 0.03, (128, 128, 3))
            self.assertTrue(judge.judge(np.clip(image, 0, 1), s).right, s)

    def test_an_extra_object_is_an_error(self):
        for s in self.pairs:
            self.assertFalse(judge.judge(rendered(s), replace(s, objects=s.objects[:1], relation=None)).objects, s)

    def test_a_duplicate_is_an_error(self):
        for s in self.pairs:
            twice = replace(s, objects=(s.objects[0], replace(s.objects[0], x=s.objects[1].x, y=s.objects[1].y)))
            self.assertFalse(judge.judge(rendered(twice), replace(s, objects=s.objects[:1], relation=None)).objects, s)
            self.assertFalse(judge.judge(rendered(twice), s).objects, s)

    def test_a_doubled_object_is_an_error(self):
        for s in self.scenes:
            if s.relation is None:
                o = s.objects[0]
                for dx, dy in ((24, 0), (0, 24), (16, 16)):
                    twice = (replace(o, x=o.x - dx // 2, y=o.y - dy // 2), replace(o, x=o.x + dx // 2, y=o.y + dy // 2))
                    self.assertFalse(judge.judge(rendered(replace(s, objects=twice)), s).objects, (s, dx, dy))

    def test_a_missing_object_is_an_error(self):
        for s in self.pairs:
            verdict = judge.judge(rendered(replace(s, objects=s.objects[:1])), s)
            self.assertFalse(verdict.objects or verdict.relation, s)

    def test_another_object_is_an_error(self):
        for s in self.pairs:
            for noun, colour in world.SPRITES:
                if (noun, colour) != (s.objects[0].noun, s.objects[0].colour):
                    other = replace(s, objects=(replace(s.objects[0], noun=noun, colour=colour), s.objects[1]))
                    self.assertFalse(judge.judge(rendered(other), s).objects, (s, noun, colour))
                    break

    def test_every_wrong_relation_is_an_error(self):
        for s in self.pairs:
            for relation in world.RELATIONS:
                self.assertEqual(judge.judge(rendered(s), replace(s, relation=relation)).relation, relation == s.relation)

    def test_a_shape_that_is_no_object_is_an_error(self):
        y, x = np.mgrid[0:128, 0:128]
        for s in self.scenes:
            if not s.relation and s.place == "plain":
                image = rendered(s)
                image[(y - 110) ** 2 + (x - (110 if s.objects[0].x < 32 else 18)) ** 2 < 14**2] = (0.2, 0.5, 0.3)
                self.assertGreater(judge.judge(image, s).blobs, 0)

    def test_half_an_object_is_an_error(self):
        for s in self.scenes:
            o = s.objects[0]
            image = rendered(s)
            image[o.y + 32 : o.y + 64, o.x : o.x + 64] = world.background(s.place)[o.y + 32 : o.y + 64, o.x : o.x + 64]
            self.assertFalse(judge.judge(image, s).objects, s)

    def test_the_place_counts(self):
        for s in self.scenes[:20]:
            for place in world.PLACES:
                self.assertEqual(judge.judge(rendered(s), replace(s, place=place)).place, place == s.place)


if __name__ == "__main__":
    unittest.main()
